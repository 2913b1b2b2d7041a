"""Check the backwards of ../shared, right and wrong ones, and say which verdicts are not as expected."""

import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from yardstick import yardstick

from backprop_rules import InputError, check, check_function

SHARED = Path(__file__).parents[2] / "shared"
BETWEEN = 15  # variants between two measurements of the yardstick
Job = Callable[[], Any]


@dataclass(frozen=True)
class Variant:
    """One backward: which verdicts are as expected, and how to check it."""

    name: str
    expected: tuple[str, ...]
    job: Job


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected_of(variant: str) -> tuple[str, ...]:
    """Return the verdicts that one listed among the wrong ones may get."""
    if variant.startswith("RIGHT_"):
        return ("right",)
    return ("inaccurate", "right") if variant.startswith("INACCURATE_") else ("wrong",)


def named(name: str, right: Any, wrong: dict[str, Any], job_of: Callable[[Any], Job]) -> Iterator[Variant]:
    yield Variant(f"{name}: right", ("right", "convention"), job_of(right))
    for variant, backward in wrong.items():
        yield Variant(f"{name}: {variant}", expected_of(variant), job_of(backward))


def job_of(function: Callable[..., Any], **options: Any) -> Callable[[Any], Job]:
    """Return what makes of a backward, or of a function that has its own, its check."""
    return lambda backward: lambda: function(backward, **options, raise_on_failure=False)


def kernels(module: ModuleType) -> Iterator[Variant]:
    for name, held in module.KERNELS.items():
        make = job_of(check, forward=held["forward"], example=held["example"])
        yield from named(name, held["right"], held["wrong"], make)


def reports(module: ModuleType) -> Iterator[Variant]:
    for held in module.CASES:
        name, right, wrong, example = (held[key] for key in ("id", "right", "wrong", "example"))
        if held["how"] == "jax":
            try:
                right, wrong, example = module.jax_case()
            except ImportError:
                print(f"{name}: left out, as JAX is not installed")
                continue
            make = job_of(check_function, definition=held["definition"], example=example)
        elif held["how"] == "numpy":
            make = job_of(check, definition=held["definition"], framework="numpy", example=example)
        else:
            make = job_of(check, forward=held["forward"], example=example)
        yield from named(name, right, wrong, make)


def outcome_of(job: Job) -> tuple[str, str, float]:
    """Return the verdict, what was said where there is none or it may surprise, and the CPU seconds."""
    start = time.process_time()
    try:
        report = job()
        verdict, text = report.verdict, str(report)
    except InputError as error:
        verdict, text = "refused", str(error)
    except Exception as error:
        verdict, text = "crash", f"{type(error).__name__}: {error}"
    return verdict, " ".join(text.split())[:240], time.process_time() - start


def variants() -> list[Variant]:
    makers = {"kernels.py": kernels, "reports.py": reports}
    missing = [name for name in makers if not (SHARED / name).is_file()]
    for name in missing:
        print(f"there is no {SHARED.name}/{name} beside the repository: left out")
    return [v for name, make in makers.items() if name not in missing for v in make(loaded(SHARED / name))]


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    listed = variants()
    if not listed:
        return
    outcome_of(job_of(check, forward=torch.sin, example=(torch.rand(3),))(lambda g, x: g * x.cos()))
    if "jax" in sys.modules:  # the first that is compiled takes longer
        jax = sys.modules["jax"]
        outcome_of(job_of(check_function, definition=np.exp, example=(jax.numpy.ones(4),))(jax.numpy.exp))
    pace, costs, strange = [], [], []
    for k, variant in enumerate(listed):
        if k % BETWEEN == 0:
            pace.append(yardstick())
        verdict, text, seconds = outcome_of(variant.job)
        as_expected = verdict in variant.expected
        costs.append(seconds / statistics.median(pace))
        print(f"{variant.name:42} {verdict:13} {'' if as_expected else 'NOT':3} {costs[-1]:8.2f} Y", flush=True)
        if not as_expected:
            strange.append(f"  {variant.name}: {verdict}, not {' or '.join(variant.expected)}: {text}")
    print(f"\n{len(listed)} variants in Y: median {statistics.median(costs):.2f}, largest {max(costs):.2f}")
    print(f"not as expected: {len(strange)}")
    print("\n".join(strange))


if __name__ == "__main__":
    main()
