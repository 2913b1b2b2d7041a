"""Name the labelled mistakes: which are named in their line, which elsewhere, which not: `python tests/naming.py`."""

import argparse
import inspect
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from labelled import Forward, Function, Labelled
from test_labelled import FORWARDS

from backprop_rules.diagnosis.edits import Edit
from backprop_rules.diagnosis.surgery import in_its_line, places_of, seen_in
from backprop_rules.evidence.evidence import WIDE
from backprop_rules.question import Asked, question


@dataclass(frozen=True)
class Answer:
    """What was said of a labelled mistake: nothing, or explanations, and whether one has the label's lines."""

    forward: Forward
    labelled: Labelled
    found: list[tuple[Edit, ...]]
    in_its_lines: bool
    seconds: float
    seen_at: str
    line: str  # of the backward: one that the right backward has otherwise, a later one, an earlier one, or none

    def __str__(self) -> str:
        what = "right line" if self.in_its_lines else "another line" if self.found else "not named"
        told = " or ".join(" and ".join(named.sentence for named in one) for one in self.found)
        rows = f"{self.forward}: {self.labelled}", told, self.seen_at
        return f"{what:13}{self.line:8}{self.seconds:6.2f} s  " + "  |  ".join(rows)


def answered(forward: Forward, labelled: Labelled) -> Answer:
    """Ask for the line of a labelled mistake."""
    start = time.process_time()
    subject, _ = question(labelled.backward, (None, forward.forward, None, forward.example, {}, None), Asked())
    places = places_of(subject, WIDE)
    found = in_its_line(places)
    first, source = forward.forward.__code__.co_firstlineno, inspect.getsource(forward.forward).splitlines()
    lines = {first + k for k, line in enumerate(source) for edit in labelled.edits if edit.at in line}
    told = [set[int]().union(*(named.lines for named in one)) for one in found]
    right = lines in told or (len(lines) == 1 and lines <= set[int]().union(*told))
    _, seen_at = seen_in(places, found)
    line = line_of(seen_at, labelled.backward, forward.right)
    return Answer(forward, labelled, found, right, time.process_time() - start, seen_at, line)


def line_of(seen_at: str, backward: Function, right: Function) -> str:
    """Say whether the line that is told of a backward is one that the right one does not have."""
    number = re.search(r"called in line (\d+)", seen_at) or re.search(r"backward, line (\d+)", seen_at)
    if number is None:
        return "none"
    known = {line.strip() for line in inspect.getsource(right).splitlines()[1:]}
    source, first = inspect.getsourcelines(backward)
    others = [first + k for k, line in enumerate(source) if k and line.strip() not in known]
    told = int(number[1])
    return "its" if told in others else "later" if told > min(others) else "earlier"


def answers(names: list[str]) -> Iterator[Answer]:
    for forward in FORWARDS:
        if not names or forward.name in names:
            yield from (answered(forward, labelled) for labelled in forward.wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="forward", help=f"of {', '.join(f.name for f in FORWARDS)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    every = []
    for answer in answers(parser.parse_args().names):
        print(answer, flush=True)
        every.append(answer)
    for what, some in (("one edit", 1), ("two edits", 2)):
        those = [a for a in every if len(a.labelled.edits) == some]
        right, named = sum(a.in_its_lines for a in those), sum(bool(a.found) for a in those)
        print(f"{what}: {len(those)}, named {named}, in the label's lines {right}")
    print("lines of the backward:", dict(Counter(a.line for a in every if a.found)))
    print(f"median {sorted(a.seconds for a in every)[len(every) // 2]:.2f} s")


if __name__ == "__main__":
    main()
