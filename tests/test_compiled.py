"""A compiled forward is taken as it was written: in a process of its own, as the compiler stays where it was loaded."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import torch
from modules import MODULES
from backprop_rules import check

(module,) = (m for m in MODULES if m.name == "a bias and GELU")
forward = torch.compile(module.forward, backend="eager")
forward(*module.example)
for backward in (module.right, *module.wrong.values()):
    print(check(backward, forward=forward, example=module.example, raise_on_failure=False).verdict)
"""


@pytest.mark.xdist_group("processes")
def test_a_compiled_forward_is_taken_as_it_was_written(torch_alone):
    done = torch_alone.run("-c", CODE, path=(ROOT, ROOT / "tests"))
    verdicts = done.stdout.split()
    assert verdicts[0] == "right", done.stdout + done.stderr
    assert len(verdicts) > 1
    assert set(verdicts[1:]) == {"wrong"}
