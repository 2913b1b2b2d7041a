"""A module given as a whole is a function of its parameters, too."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backprop_rules import check, check_function
from backprop_rules.errors import InputError
from backprop_rules.evidence import differences
from backprop_rules.subject.subject import Subject
from backprop_rules.testing import WrongGradients, assert_gradients

X = (torch.linspace(-1, 1, 20).reshape(5, 4),)


class Forgets(torch.autograd.Function):
    """A linear layer whose bias has the mean of the cotangent, and not its sum."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return x @ weight.mT + bias

    @staticmethod
    def backward(ctx, grad_y):
        x, weight = ctx.saved_tensors
        return grad_y @ weight, grad_y.mT @ x, grad_y.mean(0)


class Wrong(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Forgets.apply(x, self.weight, self.bias)


class Another(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT


class Tied(nn.Module):
    """Words and their scores from the same table, whose first row is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4, padding_idx=0)

    def forward(self, i: Tensor) -> Tensor:
        return self.words(i) @ self.words.weight.mT


@pytest.mark.parametrize("against", [{}, {"forward": nn.Linear(4, 3)}], ids=["alone", "another"])
def test_a_wrong_gradient_of_a_modules_parameter_is_found(against):
    report = check_function(Wrong(4, 3), example=X, raise_on_failure=False, **against)
    assert (report.verdict, report.subject.names[report.finding.leaf]) == ("wrong", "bias")
    assert "(x, weight, bias)" in str(report)


class Named(nn.Module):
    """Parameters that are called as an argument is, or the output, and an option."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.grad_y = (nn.Parameter(torch.linspace(1, 2, 4)) for _ in range(3))

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return (x * self.x + self.y * self.grad_y) * scale


def test_a_modules_parameters_may_have_any_name_and_its_options_are_given():
    report = check_function(Named(), example=X, params={"scale": 2.0})
    assert (report.verdict, report.subject.names) == ("right", ("x", "x_", "y_", "grad_y_"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
@pytest.mark.parametrize("wrapped", [nn.DataParallel, torch.compile])
def test_what_a_module_is_wrapped_into_is_checked_as_far_as_it_goes(wrapped):
    report = check_function(wrapped(nn.Linear(4, 3)), example=X)
    assert report.verdict == "right"
    assert ("parameters" in str(report)) == (wrapped is not torch.compile)


def test_a_module_is_named_by_its_class():
    assert str(check_function(nn.Linear(4, 3), example=X)).startswith("Linear: right")


def test_parameters_are_held_to_a_module_that_has_the_same_and_a_note_says_where_it_has_not():
    torch.manual_seed(0)
    own = nn.Linear(4, 3)
    assert check_function(own, forward=nn.Linear(4, 3), example=X).notes == ()
    report = check_function(own, forward=lambda x: x @ own.weight.mT + own.bias, example=X)
    assert "the parameters of Linear are not held" in str(report)
    report = check_function(Another(), forward=nn.Linear(4, 3, bias=False), example=X, raise_on_failure=False)
    assert "the parameters of Another are not held" in str(report)


def test_a_module_that_takes_only_indices_is_checked_and_its_padding_has_no_gradient():
    table = nn.Embedding(10, 3, padding_idx=0)
    assert check_function(table, example=(torch.tensor([[0, 1], [3, 0]]),)).verdict == "right"
    layers = nn.Sequential(nn.Embedding(10, 3, padding_idx=-1), nn.Linear(3, 2))
    assert check_function(layers, example=(torch.tensor([[9, 1], [3, 9]]),)).verdict == "right"


def test_the_padding_of_an_embedding_hides_nothing_else():
    def frozen(i: Tensor, w: Tensor) -> Tensor:
        return nn.functional.embedding(i, torch.cat((w[:2], w[2:].detach())), padding_idx=0)

    example = torch.tensor([[0, 1], [3, 0]]), torch.randn(5, 3)
    assert check_function(frozen, example=example, raise_on_failure=False).verdict == "wrong"
    assert check_function(Tied(), example=(torch.tensor([[0, 1, 2]]),)).verdict == "right"


def test_a_module_that_changes_its_buffers_is_the_same_at_each_call():
    """A power iteration, or running statistics, go on from call to call."""
    for layer in (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), nn.BatchNorm1d(4)):
        before = {name: x.clone() for name, x in layer.state_dict().items()}
        assert check_function(layer, example=X).verdict == "right"
        assert all(torch.equal(x, before[name]) for name, x in layer.state_dict().items())


def test_a_parameter_without_elements_is_not_asked():
    with pytest.warns(UserWarning, match="zero-element"):
        layer = nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 6])
    assert check_function(layer, example=(torch.randn(5, 8), torch.tensor([0, 3, 5, 7, 9]))).verdict == "right"


def test_gradients_of_a_modules_parameters_are_asserted_behind_those_of_its_arguments():
    layer, grad_y = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)), torch.randn(5, 3)
    primals = (X[0].clone().requires_grad_(), *layer.parameters())
    got = torch.autograd.grad(layer(primals[0]), primals, grad_y)
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    assert assert_gradients(got, forward=layer, primals=primals, grad_y=grad_y).right
    assert all(torch.equal(x, before[name]) for name, x in layer.state_dict().items())
    with pytest.raises(WrongGradients, match="gradient of _1_weight"):
        assert_gradients((*got[:2], got[2] * 1.01, got[3]), forward=layer, primals=primals, grad_y=grad_y)


def test_a_backward_may_name_the_parameters_of_layers_in_a_row():
    layers = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def backward(grad_y, x, _0_weight, _0_bias):
        z = grad_y * (1 - torch.tanh(x @ _0_weight.mT + _0_bias) ** 2)
        return z @ _0_weight, z.mT @ x, z.sum(0)

    assert check(backward, forward=layers, example=X).verdict == "right"


def test_weights_are_normalised_where_torch_itself_would_divide_by_none():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert check_function(layer, example=X).verdict == "right"


class Network(nn.Sequential):
    def __init__(self, layer: type[nn.Linear]) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), layer(6, 6), nn.Tanh(), nn.Linear(6, 2)
        )


@pytest.mark.parametrize(("layer", "said"), [(nn.Linear, None), (Wrong, "_4_bias")])
def test_of_a_large_network_one_slope_along_all_parameters_is_asked_first(monkeypatch, layer, said):
    monkeypatch.setattr(Subject, "heavy", True)
    asked, slope = [], differences.slope
    monkeypatch.setattr(differences, "slope", lambda e, along, step: asked.append(len(along)) or slope(e, along, step))
    report = check_function(Network(layer), example=X, raise_on_failure=False)
    assert (report.verdict, asked[0]) == ("wrong" if said else "right", 9)
    assert said is None or report.subject.names[report.finding.leaf] == said
    assert said or asked.count(1) < 9


def test_differences_that_have_not_settled_contradict_nothing(monkeypatch):
    """Between the kinks of many ReLUs the slopes of neighbouring steps may agree by luck."""
    slopes = {2.0**-5: (1761.0, 800.0), 3 * 2.0**-13: (993.0, 70.0), 5 * 2.0**-20: (641.0, 1e-3)}

    def slope(evidence, along, step):
        value, error = slopes[step]
        return differences.Slope(value, error, value, value, 0.0, 1.0)

    monkeypatch.setattr(differences, "slope", slope)
    first = slope(None, {}, 2.0**-5)
    assert differences._borne_out(SimpleNamespace(), {}, 2.0**-5, first) is None
    slopes[5 * 2.0**-20] = (993.5, 1e-3)
    assert differences._borne_out(SimpleNamespace(), {}, 2.0**-5, first).value == 993.5


class Two(nn.Module):
    """Parameters whose names are one where dots are underscores; the bias of one is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Module()
        self.a.b, self.a_b = (nn.Parameter(torch.full((4,), value)) for value in (0.5, 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return Forgets.apply(x, torch.eye(4, dtype=x.dtype), self.a_b) + self.a.b


def test_parameters_are_two_whose_names_are_one_but_for_a_dot():
    report = check_function(Two(), example=X, raise_on_failure=False)
    assert (report.verdict, report.subject.names) == ("wrong", ("x", "a_b", "a_b_"))
    assert report.subject.names[report.finding.leaf] == "a_b"


class Strange(nn.Module):
    """Layers and parameters that are called as no argument can be."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"conv-1": nn.Linear(4, 4)})
        for name in ("lambda", "_"):
            self.register_parameter(name, nn.Parameter(torch.linspace(1, 2, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers["conv-1"](x) * getattr(self, "lambda") + self._


def test_what_is_called_as_no_argument_can_be_is_held():
    report = check_function(Strange(), example=X)
    assert set(report.subject.names) == {"x", "lambda_", "__", "layers_conv_1_weight", "layers_conv_1_bias"}


class Reads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, layer):
        ctx.save_for_backward(x)
        ctx.layer = layer
        return x * weight

    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y * ctx.layer.weight, (grad_y * x).sum(0), None


class ReadsBackward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return Reads.apply(x, self.weight, self)


class Recomputed(nn.Module):
    def __init__(self, kind: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.layer, self.last = kind(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(
            checkpoint(lambda x, scale: torch.tanh(scale * self.layer(x)), x, scale=2, use_reentrant=False)
        )


def test_of_what_reads_its_parameters_in_its_backward_they_are_not_held():
    """There they are the module's own again, and not those that were drawn."""
    report = check_function(ReadsBackward().double(), example=(X[0].double(),))
    assert (report.verdict, len(report.subject.names)) == ("right", 1)
    assert "are not held" in str(report)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_a_checkpoint_computes_again_is_made_of_the_parameters_that_were_drawn(dtype):
    module, x = Recomputed().to(dtype), X[0].to(dtype)
    report = check_function(module, example=(x,))
    assert (report.verdict, len(report.subject.names)) == ("right", 5)
    primals, g = (x.requires_grad_(), *module.parameters()), torch.ones(5, 2, dtype=dtype)
    got = torch.autograd.grad(module(x), primals, g)
    held = {"forward": module, "primals": primals, "grad_y": g, "precision": "eager"}
    assert assert_gradients(got, **held).right
    with pytest.raises(WrongGradients, match="layer_bias"):
        assert_gradients((*got[:2], got[2] / 5, *got[3:]), **held)


class RecomputedNorm(nn.Sequential):
    """A layer with buffers, and statistics of its own, within a checkpoint."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def test_a_norm_with_buffers_is_computed_again_in_the_precision_of_forward():
    assert check_function(RecomputedNorm(nn.Linear(4, 3), nn.BatchNorm1d(3)), example=X).verdict == "right"


class RecomputedUnderAutocast(nn.Sequential):
    def _lowered(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self._lowered, x, use_reentrant=False)


def test_what_is_computed_again_under_autocast_may_round_as_it_does_in_forward():
    torch.manual_seed(1)
    module, x = RecomputedUnderAutocast(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(5, 3)
    primals, g = (x.requires_grad_(), *module.parameters()), torch.randn(5, 3)
    got = torch.autograd.grad(module(x), primals, g)
    held = {"forward": module, "primals": primals, "grad_y": g, "precision": "eager"}
    assert assert_gradients(got, **held).right
    with pytest.raises(WrongGradients, match="_0_weight"):
        assert_gradients((got[0], 1.25 * got[1], *got[2:]), **held)


def test_a_wrong_gradient_inside_a_checkpoint_is_that_of_its_parameter():
    report = check_function(Recomputed(Wrong), example=X, raise_on_failure=False)
    assert (report.verdict, report.subject.names[report.finding.leaf]) == ("wrong", "layer_bias")


def test_a_frozen_parameter_may_be_read_in_a_backward():
    layers = nn.Sequential(nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2))
    assert check_function(layers, example=X).subject.names == ("input", "_1_weight", "_1_bias")


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.cache = None
        self.register_buffer("last", None)

    def forward(self, x: Tensor) -> Tensor:
        self.cache = self.last = self.layer(x)
        return self.cache


def test_an_array_may_be_the_example_by_itself():
    assert check_function(nn.Linear(4, 3), example=X[0]).subject.names == ("input", "weight", "bias")


def test_what_a_module_keeps_is_what_it_was():
    """A norm of weights that is taken in a hook leaves them in an attribute, and would leave those that were drawn."""
    module = Keeps()
    check_function(module, example=X)
    assert (module.cache, module.last) == (None, None)
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(4, 3))
    before = layer.weight
    check_function(layer, example=X)
    assert layer.weight is before


def test_a_forward_that_writes_to_its_parameters_leaves_the_modules_own():
    table = nn.Embedding(10, 3, max_norm=0.1)
    before = table.weight.detach().clone()
    check_function(table, example=(torch.tensor([[0, 1], [3, 0]]),), raise_on_failure=False)
    assert torch.equal(table.weight, before)


def test_a_gradient_that_torch_keeps_sparse_is_that_of_the_table():
    table = nn.Embedding(10, 3, sparse=True)
    assert check_function(table, example=(torch.tensor([[0, 1], [3, 0]]),)).verdict == "right"


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_buffers_are_the_same_at_each_call_of_a_module_without_parameters():
    assert check_function(Counts(), example=X).verdict == "right"


def test_a_norm_of_running_statistics_behind_another_layer_is_right():
    """Its buffers are in float32 where it is called in float64, and torch has no kernel for that."""
    layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    assert check_function(layers, example=X).verdict == "right"


def test_a_parameter_is_given_once():
    layer = nn.Linear(4, 3)
    held = {"forward": layer, "primals": (*X, layer.weight, layer.bias, layer.weight), "grad_y": torch.ones(5, 3)}
    with pytest.raises(InputError, match="weight, a parameter of Linear, stands twice among the primals: give it once"):
        assert_gradients((None,) * 4, **held)


def test_what_torch_says_is_told_to_its_end():
    """Of a checkpoint that cannot be asked for gradients alone the second sentence says what to do."""
    layer = nn.Linear(4, 3)
    with pytest.raises(InputError, match="either set use_reentrant=False"):
        check_function(lambda x: checkpoint(layer, x, use_reentrant=True), example=X)
