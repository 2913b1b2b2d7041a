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


VERIFIED_FIRST = """
import sys
import torch
from backprop_rules import CATALOGUE
from backprop_rules.verify import verify_rule, warm_up
warm_up()
assert not verify_rule(CATALOGUE["mul"]).problem
print("torch._dynamo" in sys.modules)
steps = torch.optim.Adam([torch.zeros(3, requires_grad=True)])
@torch.compile(backend="eager")
def grow(y):
    steps.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})
    return y * 2
print(grow(torch.ones(1)).item(), "torch._dynamo" in sys.modules)
"""


@pytest.mark.xdist_group("processes")
def test_rules_are_verified_without_the_compiler_and_it_is_kept_out_as_before_once_it_is_there(torch_alone):
    """An optimizer's groups are made where the compiler must not look."""
    done = torch_alone.run("-c", VERIFIED_FIRST)
    assert done.stdout.split() == ["False", "2.0", "True"], done.stderr
