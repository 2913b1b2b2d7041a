import pytest
import torch

from backprop_rules import layout

SHAPES = [(), (3,), (2, 3), (2, 1, 3), (0, 2), (2, 3, 4), (2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arrange", [*layout.ARRANGED.values(), torch.clone])
def test_an_arranged_tensor_has_the_same_values_and_code_that_makes_it_again(arrange, shape):
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    arranged = arrange(x)
    assert torch.equal(arranged, x)
    again = eval(layout.code(arranged), {"torch": torch, "layout": layout})
    assert torch.equal(again, x)
    assert again.dtype == x.dtype
    assert again.storage_offset() == arranged.storage_offset()
    if x.numel() > 1:
        assert again.stride() == arranged.stride()


@pytest.mark.parametrize(("axis", "small"), [(0, (1, 3)), (1, (2, 1)), (2, (1, 1))])
def test_an_expanded_tensor_has_stride_zero_and_code_that_makes_it_again(axis, small):
    assert layout.expanded_axes((2, 3), axis) == small
    x = torch.ones(small, dtype=torch.bfloat16).expand(2, 3)
    again = eval(layout.code(x), {"torch": torch})
    assert again.stride() == x.stride()
    assert torch.equal(again, x)


def test_rows_of_wider_rows_lie_in_order_and_no_axis_goes_on_where_the_next_one_ends():
    x = layout.padded(torch.ones(3, 4, 5))
    assert x.stride(-1) == 1
    assert x.storage_offset()
    assert all(x.stride(k) != x.stride(k + 1) * x.shape[k + 1] for k in (0, 1))


def test_heads_and_channels_lie_as_attentions_and_convolutions_get_them():
    x = torch.ones(2, 3, 4, 5)
    assert layout.swapped(x).transpose(1, 2).is_contiguous()
    assert layout.channels_last(x).is_contiguous(memory_format=torch.channels_last)


def test_the_gaps_of_a_sliced_tensor_are_nan():
    x = layout.sliced(torch.ones(2))
    assert x.as_strided((5,), (1,), 0).isnan().tolist() == [True, False, True, False, True]


def test_a_meta_tensor_has_code_without_values():
    assert layout.code(torch.empty(2, device="meta")) == "torch.empty((2,), dtype=torch.float32, device='meta')"


def test_nan_and_infinity_have_code_that_makes_them_again():
    x = torch.tensor([torch.nan, -torch.inf, 1.0])
    assert layout.code(x) == "torch.tensor([torch.nan, -torch.inf, 1.0], dtype=torch.float32)"
    assert torch.equal(eval(layout.code(x), {"torch": torch}).isnan(), x.isnan())


def test_many_zeros_are_not_written_out():
    assert layout.code(torch.zeros(5, 5)) == "torch.zeros((5, 5), dtype=torch.float32)"


def test_a_sliced_tensor_is_a_small_part_larger_and_no_two_of_its_axes_are_one():
    x = layout.sliced(torch.ones(8, 8, 8, 8))
    assert x.untyped_storage().nbytes() < 4 * x.numel() * x.element_size()
    pairs = zip(x.stride(), x.stride()[1:], x.shape[1:], strict=False)
    assert all(outer != inner * n for outer, inner, n in pairs)
