"""A computation graph as a person draws it: as a table, as Mermaid, as DOT, and as JSON."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from backprop_rules.teaching.trace import Edge, Node, Trace

LEGEND = (
    "Values go from the top down, gradients from the bottom up: what leaves for a node arrives there, added up over "
    "all rows. ⊙ multiplies element by element. A matrix, with a row for each element of the node, is multiplied from "
    "the left by what arrives. A bar means the gradient: x̄ = ∂L/∂x."
)
# A local derivative with more entries than this is written into a picture as a formula; JSON has all.
ENTRIES = 16


def table(traced: Trace) -> Table:
    """Return the graph as a table: a row for each node, and one for each way back from it."""
    made = Table(caption=LEGEND, caption_justify="left")
    for column in ("node", "value", "gradient that arrives", "to", "local derivative", "gradient that leaves"):
        made.add_column(column, overflow="fold")
    for node in traced.nodes.values():
        first = [f"{node.name}\n= {node.computed}" if node.computed else node.name]
        first += [text(node.value), _arrived(node)]
        ways = [[edge.source, local_derivative(edge), text(edge.gradient)] for edge in node.edges]
        for way in ways or [[]]:
            made.add_row(*first, *way)
            first = ["", "", ""]
        made.add_section()
    return made


def mermaid(traced: Trace) -> str:
    """Return the graph as Mermaid: an arrow is a value that goes forward, labelled with what comes back along it."""
    lines = ["graph TD"]
    for k, node in enumerate(traced.nodes.values()):
        words = _quoted(_words(node))
        lines.append(f"    n{k}" + (f"[{words}]" if node.made_by else f"([{words}])"))
    for source, k, edge in _edges(traced):
        lines.append(f"    n{source} -->|{_quoted(_way(edge))}| n{k}")
    return "\n".join(lines)


def dot(traced: Trace) -> str:
    """Return the graph in the language of Graphviz, with the labels that Mermaid's has."""
    lines = ["digraph trace {", "    node [shape=box];"]
    for k, node in enumerate(traced.nodes.values()):
        shape = "" if node.made_by else ", shape=ellipse"
        lines.append(f"    n{k} [label={_escaped(_words(node))}{shape}];")
    for source, k, edge in _edges(traced):
        lines.append(f"    n{source} -> n{k} [label={_escaped(_way(edge))}];")
    return "\n".join([*lines, "}"])


def as_json(traced: Trace) -> str:
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


def local_derivative(edge: Edge) -> str:
    """Return the local derivative: a number, ⊙ and a factor for each element, or the rule's formula and a matrix."""
    rows, columns = edge.jacobian.numel() // max(1, edge.gradient.numel()), edge.gradient.numel()
    matrix = edge.jacobian.reshape(rows, columns)
    if matrix.numel() == 1:
        return text(matrix.reshape(()))
    if rows == columns and matrix.equal(torch.diag(matrix.diagonal())):
        return f"⊙ {text(matrix.diagonal().reshape(edge.gradient.shape))}"
    if matrix.numel() <= ENTRIES:
        return f"{edge.formula}\n{text(matrix)}"
    return edge.formula or f"{rows} × {columns} matrix, {int((matrix != 0).sum())} entries not 0"


def text(x: Tensor) -> str:
    """Return a tensor as nested lists of four digits, a row of a matrix to a line, its columns one under the other."""
    return _text(x, 0 if x.ndim < 2 else max((len(_digits(v)) for v in x.flatten().tolist()), default=0))


def _text(x: Tensor, width: int) -> str:
    if x.ndim == 0:
        return _digits(x.item()).rjust(width)
    inner = [_text(part, width) for part in x]
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
    return f"{value + 0.0:.4g}" if isinstance(value, float) else str(value)  # the two zeros are one to a reader


def _arrived(node: Node) -> str:
    return "none" if node.arrives is None else text(node.arrives)


def _edges(traced: Trace) -> Iterator[tuple[int, int, Edge]]:
    """Yield each edge with the numbers of the node that it leads to and of the one that it comes from."""
    numbered = {name: k for k, name in enumerate(traced.nodes)}
    return ((numbered[edge.source], numbered[name], edge) for name, node in traced.nodes.items() for edge in node.edges)


def _words(node: Node) -> list[str]:
    head = f"{node.name} = {node.computed}" if node.computed else node.name
    return [head, f"value {on_one_line(node.value)}", f"arrives {_joined(_arrived(node))}"]


def _way(edge: Edge) -> list[str]:
    return [f"local {_joined(local_derivative(edge))}", f"leaves {on_one_line(edge.gradient)}"]


def _quoted(words: list[str]) -> str:
    return '"' + "<br/>".join(words).replace('"', "#quot;") + '"'


def _escaped(words: list[str]) -> str:
    return '"' + "\\n".join(word.replace("\\", "\\\\").replace('"', '\\"') for word in words) + '"'
