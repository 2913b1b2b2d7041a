"""Proved elements of real kernels' gradients: the truth agrees with each, and what does not agree is seen."""

from dataclasses import replace

import pytest
import torch
from proofs_at_size import TEXTBOOK, held, proofs
from real_sizes import KERNELS


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_proved_elements_agree_with_the_truth(kernel):
    found, _, agreement = held(kernel, False, 60)
    assert agreement.right and len(found) >= 40
    assert {leaf for leaf, _, _ in found} == set(range(TEXTBOOK[kernel.name][1]))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_truth_that_is_off_by_nine_digits_is_seen(kernel):
    """Of a thousandth of a float32's digits: what the truth itself may round in float64 is far below that."""

    def off(*primals):
        return kernel.forward(*primals) * (1 + 2.0**-34)

    _, _, agreement = held(replace(kernel, forward=off), False, 60)
    assert not agreement.right


def test_what_is_proved_is_drawn_anew_for_another_count_and_never_twice():
    kernel = KERNELS[0]
    primals = tuple(x.double() for x in kernel.primals(torch.float32, False))
    some, more = (proofs(kernel, primals, kernel.cotangent(primals), n) for n in (30, 60))
    places = [(leaf, at) for leaf, at, _ in more]
    assert len(set(places)) == len(places) == 60 and {(leaf, at) for leaf, at, _ in some} != set(places)
