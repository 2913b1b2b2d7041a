"""A computation graph as a person draws it: in blocks of text, as Mermaid, as DOT, as SVG, and as JSON."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from backprop_rules.formula import columns
from backprop_rules.teaching.svg import drawing
from backprop_rules.teaching.told import Words
from backprop_rules.teaching.trace import Edge, Node, Trace

# A local derivative with more entries than this is written into a picture as a formula; JSON has all.
ENTRIES = 16


def table(traced: Trace, lang: str = "en") -> str:
    """Return the graph in blocks, one for each node: its value, what arrives, and each way back from it."""
    words, blocks = Words(lang), []
    for node in traced.nodes.values():
        lines = [_head(node), *rows("    ", _of_node(node, words))]
        for edge in node.edges:
            lines += [f"    {words('to', node=edge.source)}", *rows("      ", _of_edge(edge, words))]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, words("legend")])


def rows(indent: str, told: Sequence[tuple[str, str]]) -> list[str]:
    """Return each label with what stands beside it, one under the other."""
    width = max(columns(label) for label, _ in told) + 2
    return [beside(f"{indent}{label}{' ' * (width - columns(label))}", text) for label, text in told]


def beside(label: str, text: str) -> str:
    """Return a text of several lines beside its label."""
    return label + text.replace("\n", "\n" + " " * columns(label))


def mermaid(traced: Trace, lang: str = "en") -> str:
    """Return the graph as Mermaid: an arrow is a value that goes forward, labelled with what comes back along it."""
    words, lines = Words(lang), ["graph TD"]
    for k, node in enumerate(traced.nodes.values()):
        said = _quoted([_head(node), *_lines(_of_node(node, words))])
        lines.append(f"    n{k}" + (f"[{said}]" if node.made_by else f"([{said}])"))
    for source, k, edge in _edges(traced):
        lines.append(f"    n{source} -->|{_quoted(_lines(_of_edge(edge, words)))}| n{k}")
    return "\n".join(lines)


def dot(traced: Trace, lang: str = "en") -> str:
    """Return the graph in the language of Graphviz, with the labels that Mermaid's has."""
    words, lines = Words(lang), ["digraph trace {", "    node [shape=box];"]
    for k, node in enumerate(traced.nodes.values()):
        shape = "" if node.made_by else ", shape=ellipse"
        lines.append(f"    n{k} [label={_escaped([_head(node), *_lines(_of_node(node, words))])}{shape}];")
    for source, k, edge in _edges(traced):
        lines.append(f"    n{source} -> n{k} [label={_escaped(_lines(_of_edge(edge, words)))}];")
    return "\n".join([*lines, "}"])


def svg(traced: Trace, lang: str = "en") -> str:
    """Return the graph as a drawing: values in boxes from the top down, and on each way what comes back along it."""
    words = Words(lang)
    boxes = [[_head(node), *"\n".join(rows("", _of_node(node, words))).splitlines()] for node in traced.nodes.values()]
    ways = [(source, k, "\n".join(rows("", _of_edge(edge, words))).splitlines()) for source, k, edge in _edges(traced)]
    return drawing(boxes, ways)


def _head(node: Node) -> str:
    return f"{node.name} = {node.computed}" if node.computed else node.name


def _of_node(node: Node, words: Words) -> list[tuple[str, str]]:
    arrived = words("none") if node.arrives is None else text(node.arrives)
    return [(words("value"), text(node.value)), (words("arrives"), arrived)]


def _of_edge(edge: Edge, words: Words) -> list[tuple[str, str]]:
    return [(words("local"), local_derivative(edge, words)), (words("leaves"), text(edge.gradient))]


def _lines(told: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{label} {_joined(text)}" for label, text in told]


def as_json(traced: Trace, lang: str = "en") -> str:
    """Return the graph as an array of objects, a node each, with every number and every Jacobian in full."""
    nodes = [
        {
            "name": node.name,
            "computed": node.computed or None,
            "value": numbers(node.value),
            "arrives": None if node.arrives is None else numbers(node.arrives),
            "to": [
                {
                    "node": edge.source,
                    "primal": edge.primal,
                    "local_derivative": numbers(edge.jacobian),
                    "leaves": numbers(edge.gradient),
                }
                for edge in node.edges
            ],
        }
        for node in traced.nodes.values()
    ]
    return json.dumps(nodes, indent=1, ensure_ascii=False)


def local_derivative(edge: Edge, words: Words) -> str:
    """Return the local derivative: a number, ⊙ and a factor for each element, or the rule's formula and a matrix."""
    rows, across = edge.jacobian.numel() // max(1, edge.gradient.numel()), edge.gradient.numel()
    matrix = edge.jacobian.reshape(rows, across)
    if matrix.numel() == 1:
        return text(matrix.reshape(()))
    if rows == across and matrix.equal(torch.diag(matrix.diagonal())):
        return beside("⊙ ", text(matrix.diagonal().reshape(edge.gradient.shape)))
    if edge.jacobian.shape == edge.gradient.shape:  # of a number, which multiplies all
        told = beside("⊙ ", text(edge.jacobian.reshape(edge.gradient.shape)))
        return told if re.search("ȳ[ᵢⱼ]", edge.formula) else f"{edge.formula}\n{told}".lstrip()
    if matrix.numel() <= ENTRIES:
        return f"{edge.formula}\n{text(matrix)}".lstrip()
    return edge.formula or words("matrix", rows=rows, columns=across, count=int((matrix != 0).sum()))


def text(x: Tensor) -> str:
    """Return a tensor as nested lists of four digits, a row of a matrix to a line, its columns one under the other."""
    return _text(x, 0 if x.ndim < 2 else max((len(_digits(v)) for v in x.flatten().tolist()), default=0))


def _text(x: Tensor, width: int) -> str:
    if x.ndim == 0:
        return _digits(x.item()).rjust(width)
    inner = [beside(" ", _text(part, width))[1:] for part in x]
    return f"[{(', ' if x.ndim == 1 else ',' + chr(10) + ' ').join(inner)}]"


def on_one_line(x: Tensor) -> str:
    """Return a tensor as nested lists of four digits on one line."""
    return _joined(text(x))


def _joined(lines: str) -> str:
    return re.sub(r"\s+", " ", lines).replace("[ ", "[")


def numbers(x: Tensor) -> Any:
    """Return a tensor as nested lists for JSON, with what JSON has no number for as text."""
    if x.ndim:
        return [numbers(part) for part in x]
    value = x.item()
    return str(value) if isinstance(value, complex) or not math.isfinite(value) else value


def _digits(value: Any) -> str:
    # The two zeros are one to a reader.
    return f"{value + 0.0:.4g}" if isinstance(value, float | complex) else str(value)


def _edges(traced: Trace) -> Iterator[tuple[int, int, Edge]]:
    """Yield each edge with the numbers of the node that it leads to and of the one that it comes from."""
    numbered = {name: k for k, name in enumerate(traced.nodes)}
    return ((numbered[edge.source], numbered[name], edge) for name, node in traced.nodes.items() for edge in node.edges)


def _quoted(words: list[str]) -> str:
    return '"' + "<br/>".join(words).replace('"', "#quot;") + '"'


def _escaped(words: list[str]) -> str:
    return '"' + "\\n".join(word.replace("\\", "\\\\").replace('"', '\\"') for word in words) + '"'
