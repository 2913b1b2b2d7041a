"""Wrong backwards that public trackers report, for operations that the other tests have no wrong one for."""

import pytest
import torch
from reported import numbers, torchs_own
from reported_arrays import ARRAYS
from reported_elementwise import ELEMENTWISE
from reported_layers import LAYERS
from reported_matrices import MATRICES

from backprop_rules import check
from backprop_rules.properties.finding import Kind

REPORTED = [*ARRAYS, *ELEMENTWISE, *MATRICES, *LAYERS]


def verdict(one, backward):
    report = check(backward, forward=one.forward, example=one.example, raise_on_failure=False, explain=False)
    return report.verdict, str(report)


def test_there_are_at_least_eighty_from_forty_trackers():
    assert len(REPORTED) >= 80
    assert len({one.where.partition("#")[0] for one in REPORTED}) >= 40


@pytest.mark.parametrize("one", REPORTED, ids=str)
def test_a_reported_one_is_wrong(one):
    found, words = verdict(one, one.wrong)
    assert found == "wrong", words


@pytest.mark.parametrize("one", REPORTED, ids=str)
def test_torchs_own_in_its_place_is_right(one):
    found, words = verdict(one, torchs_own(one.forward))
    assert found in ("right", "convention"), words


def lower_alone(grad):
    """The gradient of the triangle that is read."""
    return grad.tril() + grad.triu(1).mT


@pytest.mark.parametrize("forward", [torch.linalg.eigvalsh, torch.linalg.cholesky])
def test_the_triangle_that_is_read_may_have_the_whole_gradient(forward):
    definite = numbers(3, 3) @ numbers(3, 3).mT + torch.eye(3).double()
    own = torchs_own(forward)

    def backward(grad_y, x):
        return lower_alone(own(grad_y, x)[0])

    report = check(backward, forward=forward, example=(definite,), raise_on_failure=False)
    assert report.finding.kind is Kind.ANTISYMMETRIC, str(report)


@pytest.mark.parametrize(
    "forward",
    [torch.linalg.inv, lambda x: x.triu() + x.triu(1).mT, lambda x: x @ x],
    ids=["inverse", "upper", "square"],
)
def test_what_sees_both_triangles_is_held_to_both(forward):
    definite = numbers(3, 3) @ numbers(3, 3).mT + torch.eye(3).double()
    own = torchs_own(forward)

    def backward(grad_y, x):
        return own(grad_y, x)[0].mT.clone()

    report = check(backward, forward=forward, example=(definite,), raise_on_failure=False)
    assert report.verdict == "wrong", str(report)
