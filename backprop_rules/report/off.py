"""What is said of a gradient that is off by less than the worst case, in one direction or by too much in all."""

from backprop_rules.evidence.allowance.units import FALSE_ALARMS
from backprop_rules.evidence.table import Of, Off


def of_the_sum(off: Off, name: str, shape: tuple[int, ...]) -> list[str]:
    """Return what is said of a sum over a gradient of this name and shape that is off."""
    asked = off.sum
    reach = f"roundings, which have no direction, reach {off.reach:.2g}, but for one run in {1 / FALSE_ALARMS:.0e}"
    part = "" if asked.axis is None else f" at index {asked.index} of {shape[asked.axis]} along axis {asked.axis}"
    if asked.of is Of.ELEMENT:
        return [
            f"The gradient of {name} is wrong at {list(asked.element)}: the worst case of rounding says nothing there, "
            f"but what is likely does.",
            f"    off       by {off.answer:.3g}; {reach}",
        ]
    if asked.of is Of.SHARE:
        times = round(1 + off.answer)
        likely = "left out" if not times else "taken away" if times < 0 else "multiplied, or taken more than once"
        if times == 1 or abs(1 + off.answer - times) > off.reach:
            likely = "multiplied, or what is missed, or taken twice, is another slice that gives much the same"
        return [
            f"The gradient of {name} is off systematically: every element is within its allowance, but what "
            f"{asked.given_by} gives to it is in it {1 + off.answer:.3g} times.",
            f"    share     off by {off.answer:.3g}; {reach}",
            f"    likely    it is {likely}",
        ]
    if asked.of is Of.SIZE:
        return [
            f"The gradient of {name} is farther off than roundings add up to: every element is within its allowance, "
            f"but the root of their errors' mean square{part} is {off.answer:.3g}.",
            f"    size      {off.answer:.3g}; roundings to float32, all in the worst direction, reach {off.reach:.2g}",
            "    likely    something is kept in too few digits, such as the operands of a product",
        ]
    if asked.of is Of.SLOPE:
        got = f"it is {1 + off.answer:.7g} times the truth{part}"
        likely = "a factor" if asked.axis is None else "a factor, in this slice"
    else:
        got, likely = f"its mean error{part} is {off.answer:.3g}", "something is added"
    return [
        f"The gradient of {name} is off systematically: every element is within its allowance, but {got}.",
        f"    {asked.of.name.lower():9} off by {off.answer:.3g}; {reach}",
        f"    {'likely':9} {likely}, or a sum that is kept in too few digits",
    ]
