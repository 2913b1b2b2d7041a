"""The computation graph: recorded from any composition of rules, swept backwards, and drawn."""

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backprop_rules import CATALOGUE, InputError, trace
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.baselines import load
from backprop_rules.documents.graph import graph_of, shown
from backprop_rules.formula import columns
from backprop_rules.teaching import pictures

add, clamp, exp, gather, matmul, mul, square, total = (
    CATALOGUE[name] for name in ("add", "clamp", "exp", "gather", "matmul", "mul", "square", "sum")
)
WHOLE = st.integers(-3, 3).map(float)


def matrix(rows, columns):
    return st.lists(WHOLE, min_size=rows * columns, max_size=rows * columns).map(
        lambda numbers: torch.tensor(numbers, dtype=torch.float64).reshape(rows, columns)
    )


@given(matrix(2, 3), matrix(3, 2), matrix(2, 2), matrix(2, 2))
def test_the_sweep_gives_autograds_gradients(x, w, b, g):
    def network(x, w, b):
        hidden = clamp(add(matmul(x, w), b), min=-1.5)  # no whole number: at a tie torch's choice is its version's
        return mul(add(hidden, mul(hidden, b)), square(b))  # b is used three times, hidden twice

    found = trace(network, x, w, b, grad_y=g).gradients
    leaves = [v.clone().requires_grad_() for v in (x, w, b)]
    wanted = torch.autograd.grad(network(*leaves), leaves, g)
    assert all(found[name].equal(gradient) for name, gradient in zip("xwb", wanted, strict=True))


@given(matrix(2, 2), matrix(2, 2))
def test_what_leaves_is_what_arrives_through_the_local_derivative(x, w):
    for node in trace(lambda x, w: total(square(matmul(x, w))), x, w).nodes.values():
        for edge in node.edges:
            through = torch.tensordot(node.arrives, edge.jacobian, dims=node.arrives.ndim)
            assert through.equal(edge.gradient)


def test_a_node_has_the_name_that_the_function_gives_it():
    def named(x):
        y = square(x)
        return {"squares": y, "end": total(y)}

    found = trace(named, torch.tensor([1.0, 2.0]))
    assert list(found.nodes) == ["x", "squares", "end"]
    assert found.nodes["end"].computed == "sum(squares)"
    assert found.y.value == 5
    assert repr(found) == "<Trace of 3 nodes, from x to end>"


def test_equal_names_are_counted():
    found = trace(lambda x: total(square(square(x))), torch.tensor([2.0]))
    assert list(found.nodes) == ["x", "square1", "square2", "y"]


def test_what_the_end_does_not_depend_on_gets_no_gradient():
    def network(x, z):
        square(z)
        return total(x)

    found = trace(network, torch.ones(2), torch.ones(3))
    assert found.gradients["z"] is None
    assert "none" in pictures.mermaid(found)


def test_a_tensor_made_inside_is_a_constant():
    found = trace(lambda x: total(mul(x, torch.full((2,), 3.0))), torch.ones(2))
    assert found.gradients["x"].tolist() == [3, 3]
    assert found.nodes["constant1"].arrives.tolist() == [1, 1]
    assert list(found.gradients) == ["x"]


def test_indices_and_params_take_part():
    x, at = torch.tensor([[[5.0], [7.0]]]), torch.tensor([[[1], [1], [0]]])
    found = trace(lambda x, at: total(gather(x, at), dim=1), x, at, grad_y=torch.ones(1, 1))
    assert found.gradients["x"].tolist() == [[[1], [2]]]
    assert found.gradients["at"] is None
    assert found.y.computed == "sum(gather1, dim=1)"


def test_inputs_of_a_function_that_takes_any_number_are_counted():
    def both(*those):
        return add(*those)

    found = trace(both, torch.ones(1), torch.ones(1))
    assert list(found.nodes) == ["x1", "x2", "y"]


def test_a_function_of_one_number_is_traced():
    found = trace(mul, torch.tensor(2.0), torch.tensor(3.0))
    assert (found.gradients["x"].item(), found.y.edges[0].jacobian.shape) == (3, ())


def test_an_input_may_be_called_y_and_the_end_may_be_an_input():
    found = trace(lambda x, y: total(mul(x, y)), torch.ones(2), torch.full((2,), 3.0))
    assert found.gradients["x"].tolist() == [3, 3]
    assert found.y.name == "sum1"
    assert trace(lambda x, z: x, torch.ones(1), torch.ones(3)).gradients["z"] is None


def test_nothing_is_recorded_outside_of_a_trace():
    trace(lambda x: total(square(x)), torch.ones(2))
    again = trace(total, torch.ones(2))
    assert list(again.nodes) == ["x", "y"]


REFUSED = {
    "an operation that is no rule": (
        lambda x: total(x.T @ x),
        "the primal x of sum was computed from the inputs by torch (MmBackward0), not by a rule, so that its gradient "
        "would be lost. Call the rule of the catalogue in its place",
    ),
    "an end that is no rule's": (lambda x: x + 1, "the end was computed from the inputs by torch (AddBackward0)"),
    "an end of several elements": (square, "y has shape (2, 2), so that its cotangent must be given: grad_y=..."),
    "a number as a primal": (
        lambda x: mul(x, 2.0),
        "the primal z of mul is float 2.0: give a tensor, and params by name",
    ),
    "params by position": (lambda x: clamp(x, 0, 1), "clamp takes x by position; got 3 arguments"),
    "a value called as an input": (lambda x: {"x": exp(x)}, "the function returns a value as 'x', as an input is"),
    "nothing returned": (lambda x: {}, "the function returned dict {}: return a tensor, or a dict"),
    "several values": (lambda x: (x, exp(x)), "the function returned tuple"),
    "an input changed in place": (lambda x: total(x.add_(1)), "x was changed in place after it was computed"),
    "a value changed in place": (
        lambda x: total(exp(exp(x).detach_().add_(1))),
        "exp1 was changed in place after it was computed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_lose_a_gradient_is_refused_in_words(case):
    function, message = REFUSED[case]
    with pytest.raises(InputError, match=re.escape(message)):
        trace(function, torch.ones(2, 2))


@pytest.mark.parametrize("function", [lambda x: total(mul(x * 2, x)), lambda x: total(square(x.float()))])
def test_integers_whose_gradient_would_be_lost_are_refused(function):
    with pytest.raises(InputError, match=r"holds torch\.int64, whose gradient would be lost"):
        trace(function, torch.tensor([1, 2]))


def test_a_local_derivative_that_would_fill_the_memory_is_refused():
    with pytest.raises(InputError, match="has a derivative of 8100000000 entries, and at most 67108864 are kept"):
        trace(lambda x: total(exp(x)), torch.ones(300, 300))


@pytest.mark.parametrize("grad_y", [1.0, [1.0, 1.0]])
def test_a_cotangent_that_is_no_tensor_is_refused(grad_y):
    with pytest.raises(InputError, match=re.escape(f"not a tensor. Write torch.tensor({grad_y}).")):
        trace(square, torch.ones(2), grad_y=grad_y)


def test_a_cotangent_of_another_shape_is_refused():
    with pytest.raises(InputError, match=re.escape("grad_y has shape (3,), but y has shape (2,).")):
        trace(square, torch.ones(2), grad_y=torch.ones(3))


def test_a_function_of_c_that_is_no_rule_is_told_so_as_any_other():
    with pytest.raises(InputError, match=re.escape("the end was computed from the inputs by torch (MmBackward0)")):
        trace(torch.matmul, torch.ones(1, 2), torch.ones(2, 1))


def test_an_input_that_is_no_tensor_is_refused():
    with pytest.raises(InputError, match=re.escape("x is list, not a tensor. Write torch.tensor([1.0]).")):
        trace(square, [1.0])
    with pytest.raises(InputError, match="Give each of its tensors as an argument of its own"):
        trace(square, [torch.ones(1)])


def made_here(program, step):
    """Return a step of a program from what its baseline has before it, in this machine's bits."""
    baseline = load(program)
    initial = {name: baseline.inputs[name] for name in program.parameters}
    before = program.after(baseline.steps[step - 2]) if step > 1 else initial
    return program.step(before, program.samples(baseline.inputs)[step - 1])


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_every_program_is_traced_to_its_own_gradients(program):
    baseline = load(program)
    for step in {1, len(baseline.steps)}:
        found = graph_of(program, step).trace
        here = made_here(program, step)
        for name in set(program.parameters) - set(program.wrong):
            assert found.gradients[name].equal(here[f"gradient of {name}"])
            # Recorded bits are those of any machine where the sequence of operations is fixed.
            assert not program.fixed or here[f"gradient of {name}"].equal(
                baseline.steps[step - 1][f"gradient of {name}"]
            )
        assert found.y.name == "loss"


# ---- beside the lines of a document

every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
NETWORKS = [name for name in PROGRAMS if name.startswith("two_layer")]
DOCUMENTS = Path("/work/shared/documents")


@pytest.mark.parametrize("step", [1, 20])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_lines_of_the_document_are_followed_to_the_first_that_differs(name, step):
    lines = graph_of(PROGRAMS[name], step).lines
    differ = [one for one in lines if one.differ]
    assert [one.printed.line for one in differ] == [41, 42, 44]
    assert differ[0].printed.code == "grad_h.clamp_(min=0)"
    if name.endswith("as_printed"):
        given, here = {one.printed.of: one.gives for one in lines}, made_here(PROGRAMS[name], step)
        assert given["gradient of w1"].equal(here["gradient of w1"])
        assert given["parameter w2"].equal(here["parameter w2"])


def test_rounding_alone_is_no_difference():
    program = PROGRAMS["two_layer_network_as_printed"]
    other = replace(program.printed[3], code="loss=((y_pred-y)*(y_pred-y)).flip(1).cumsum(1)[0,-1]")
    run = replace(program, printed=(*program.printed[:3], other, *program.printed[4:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROGRAMS, program.name, run)
        assert [one.printed.line for one in graph_of(program, 1).lines if one.differ] == [41, 42, 44]


@pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="the documents are not here")
def test_the_lines_are_those_of_the_document():
    for program in PROGRAMS.values():
        text = (DOCUMENTS / program.document).read_text().splitlines() if program.printed else []
        assert [one.code for one in program.printed] == [text[one.line - 1].strip() for one in program.printed]


def test_the_first_line_that_differs_is_marked():
    english, chinese = (shown(graph_of(PROGRAMS["two_layer_network"], 1), lang) for lang in ("en", "zh"))
    after = english.partition("line 41  grad_h.clamp_(min=0)\n")[2].splitlines()
    assert after[:3] == [
        "    gives  [[ 11.8, 17.56,     0,     0]]",
        "    right  [[     0,  17.56, -1.024,      0]]",
        "    THE FIRST THAT DIFFERS: 2 of 4 elements do.",
    ]
    assert english.count("THE FIRST THAT DIFFERS") == chinese.count("错误从这一行开始") == 1
    assert english.count("It differs because an earlier line does") == chinese.count("这一行受前面的错误影响") == 2


# ---- pictures


@every_program
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_graph_of_every_program_fits_eighty_columns(program, lang):
    text = shown(graph_of(program, 1), lang)
    assert max(columns(line) for line in text.splitlines()) <= 80
    assert all(
        line.count("[") == line.count("]") or line.rstrip()[-1] in ",]" for line in text.splitlines() if "[" in line
    )


def test_the_chinese_graph_says_nothing_in_english():
    text = shown(graph_of(PROGRAMS["two_layer_network_as_printed"], 1), "zh")
    assert {"值", "传来", "局部", "传出", "传向 w2", "第 41 行"} <= {
        *re.findall(r"传向 w2|第 41 行|值|传来|局部|传出", text)
    }
    assert not re.search(r"[A-Za-z]{2,}( [A-Za-z]{2,}){2,}", text)


def test_of_real_numbers_matrices_are_transposed_and_of_complex_ones_conjugated_as_well():
    x, w = torch.tensor([[1.0, 2]]), torch.tensor([[3.0], [-1]])
    real, other = (
        [edge.formula for edge in trace(matmul, *those, grad_y=those[0][:, :1]).y.edges]
        for those in ((x, w), (x * 1j, w * 1j))
    )
    assert real == ["Ā = Ȳ Bᵀ", "B̄ = Aᵀ Ȳ"]
    assert other == ["Ā = Ȳ Bᴴ", "B̄ = Aᴴ Ȳ"]


def boxes(drawn):
    """Return the corners of all boxes and texts of a drawing, and the lines of text."""
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    found = [tuple(float(one.get(k)) for k in ("x", "y", "width", "height")) for one in root.iter(f"{space}rect")]
    texts = [
        (float(one.get("x")), float(one.get("y")), one.text, one.get("class")) for one in root.iter(f"{space}text")
    ]
    return root, found, texts


@every_program
def test_the_drawing_has_every_node_in_a_box_that_no_other_box_or_label_touches(program):
    traced = graph_of(program, 1).trace
    root, found, texts = boxes(pictures.svg(traced))
    assert root.get("style") == "background: white"  # or the arrows are black on black, in a dark window
    assert len(found) == len(traced.nodes)
    assert {node.name for node in traced.nodes.values()} <= {text.partition(" = ")[0] for _, _, text, _ in texts}
    for (x, y, wide, high), (left, top, across, down) in combinations(found, 2):
        assert x + wide <= left or left + across <= x or y + high <= top or top + down <= y
    for x, y, text, kind in texts:
        around = [1 for left, top, wide, high in found if left < x < left + wide and top < y < top + high]
        assert len(around) == (kind == "node"), text
        assert 0 < x < float(root.get("width"))
    assert any("ᵀ" in text or "⊙" in text or "local" in text for _, _, text, _ in texts)


def test_what_xml_means_otherwise_is_drawn_as_it_is():
    _, _, texts = boxes(pictures.svg(trace(lambda x: {"a < b & c": square(x)}, torch.tensor([2.0]))))
    assert "a < b & c = square(x)" in {text for _, _, text, _ in texts}


def test_a_way_past_other_layers_is_led_between_their_boxes():
    drawn = pictures.svg(trace(lambda x: total(mul(square(square(x)), square(x))), torch.tensor([2.0])))
    _, found, _ = boxes(drawn)
    straight = re.findall(r'd="M([\d.]+) ([\d.]+)V([\d.]+)"', drawn)
    assert straight
    for x, top, bottom in (map(float, line) for line in straight):
        assert bottom > top
        assert not [1 for left, y, wide, high in found if left <= x <= left + wide and y < bottom and top < y + high]


def small():
    return trace(lambda x, w: total(clamp(matmul(x, w), min=0)), torch.tensor([[1.0, 2]]), torch.tensor([[3.0], [-1]]))


def test_mermaid():
    assert pictures.mermaid(small()).splitlines() == [
        "graph TD",
        '    n0(["x<br/>value [[1, 2]]<br/>arrives [[3, -1]]"])',
        '    n1(["w<br/>value [[3], [-1]]<br/>arrives [[1], [2]]"])',
        '    n2["matmul1 = matmul(x, w)<br/>value [[1]]<br/>arrives [[1]]"]',
        '    n3["clamp1 = clamp(matmul1, min=0)<br/>value [[1]]<br/>arrives [[1]]"]',
        '    n4["y = sum(clamp1)<br/>value 1<br/>arrives 1"]',
        '    n0 -->|"local Ā = Ȳ Bᵀ [[3, -1]]<br/>leaves [[3, -1]]"| n2',
        '    n1 -->|"local B̄ = Aᵀ Ȳ [[1, 2]]<br/>leaves [[1], [2]]"| n2',
        '    n2 -->|"local 1<br/>leaves [[1]]"| n3',
        '    n3 -->|"local 1<br/>leaves [[1]]"| n4',
    ]


def test_dot_has_the_same_nodes_and_arrows():
    drawn, other = pictures.dot(small()), pictures.mermaid(small())
    assert drawn.startswith("digraph trace {")
    assert drawn.count(" -> ") == other.count(" -->|") == 4
    assert drawn.count("shape=ellipse") == 2
    assert '"matmul1 = matmul(x, w)\\nvalue [[1]]\\narrives [[1]]"' in drawn


def test_json_has_every_number():
    nodes = {node["name"]: node for node in json.loads(pictures.as_json(small()))}
    assert nodes["matmul1"]["to"][1] == {
        "node": "w",
        "primal": "b",
        "local_derivative": [[[[1.0], [2.0]]]],
        "leaves": [[1.0], [2.0]],
    }
    infinite = trace(lambda x: total(exp(x)), torch.tensor([1e4]))
    assert json.loads(pictures.as_json(infinite))[-1]["value"] == "inf"


def test_an_elementwise_derivative_is_drawn_as_a_factor():
    found = trace(lambda x: total(square(x)), torch.tensor([1.0, -3]))
    assert '"local ⊙ [2, -6]<br/>leaves [2, -6]"' in pictures.mermaid(found)


@pytest.mark.parametrize(
    ("function", "count", "takes"),
    [
        (matmul, 3, "matmul takes a, b: 2; got 3 tensors"),
        (matmul, 1, "matmul takes a, b: 2; got 1 tensors"),
        (CATALOGUE["linear"], 4, "linear takes x, w, b: 2 to 3; got 4 tensors"),
        (lambda a, b: matmul(a, b.mT), 3, "<lambda> takes (a, b); got 3 tensors"),
        (lambda a, b: matmul(a, b.mT), 1, "<lambda> takes (a, b); got 1 tensors"),
    ],
)
def test_more_or_fewer_tensors_than_it_takes_are_refused(function, count, takes):
    x = torch.ones(2, 2)
    with pytest.raises(InputError, match=re.escape(f"trace: {takes}")):
        trace(function, *[x] * count, grad_y=x)
