"""A graph drawn in layers, as SVG: each node below those that it is made of, and labels on the ways between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean
from xml.sax.saxutils import escape

from backprop_rules.formula import columns

LINE, LETTER = 16, 7.3  # pixels
PAD, APART, BETWEEN = 8, 20, 28  # inside of a box, between two beside each other, and between rows
STYLE = (
    "<style>text { font: 12px monospace } .label { fill: #a22 } rect { fill: #eef4fb; stroke: #446 } "
    ".way { stroke: #888 } .last { marker-end: url(#arrow) }</style>\n"
    '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z"/></marker>'
)


@dataclass(eq=False)
class _Place:
    """A place in a row: of a node, of the label of a way, or, without lines, of a way that passes through."""

    lines: Sequence[str] = ()
    node: bool = False
    below: list["_Place"] = field(default_factory=list)
    x: float = 0
    y: float = 0

    def __post_init__(self) -> None:
        self.width = max((columns(line) * LETTER + 2 * PAD for line in self.lines), default=0)
        self.height = len(self.lines) * LINE + 2 * PAD if self.lines else 0.0

    @property
    def middle(self) -> float:
        """Where ways come in at the top, and leave at the bottom."""
        return self.x + self.width / 2


def drawing(nodes: Sequence[Sequence[str]], ways: Sequence[tuple[int, int, Sequence[str]]]) -> str:
    """Return the drawing: the lines of each node, and of each way from one to a later one that is made of it."""
    rows = _rows(nodes, ways)
    for row, above in pairwise(reversed(rows)):
        above.sort(key=lambda place: mean([row.index(one) for one in place.below] or [len(row)]))
    across = [sum(place.width for place in row) + APART * (len(row) + 1) for row in rows]
    top = float(APART)
    for row, wide in zip(rows, across, strict=True):
        left, high = (max(across) - wide) / 2 + APART, max(place.height for place in row)
        for place in row:
            place.x, place.y, place.height = left, top, place.height or high
            left += place.width + APART
        top += high + BETWEEN
    drawn = [text for row in rows for place in row for text in _drawn(place)]
    size = f'width="{max(across):.0f}" height="{top:.0f}" viewBox="0 0 {max(across):.0f} {top:.0f}"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" style="background: white" {size}>', STYLE, *drawn, "</svg>"]
    )


def _rows(nodes: Sequence[Sequence[str]], ways: Sequence[tuple[int, int, Sequence[str]]]) -> list[list[_Place]]:
    """Return the rows from the top: nodes in every other one, as low as they can be, and what lies between."""
    level = [0] * len(nodes)
    for source, target, _ in ways:
        level[target] = max(level[target], level[source] + 1)
    made = {target for _, target, _ in ways}
    for source in {source for source, _, _ in ways} - made:
        level[source] = min(level[target] for one, target, _ in ways if one == source) - 1
    places = [_Place(lines, node=True) for lines in nodes]
    rows: list[list[_Place]] = [[] for _ in range(2 * max(level) + 1)]
    for place, high in zip(places, level, strict=True):
        rows[2 * high].append(place)
    for source, target, lines in ways:
        place = places[source]
        for k in range(2 * level[source] + 1, 2 * level[target]):
            place.below.append(_Place(lines if k == 2 * level[target] - 1 else ()))
            place = place.below[-1]
            rows[k].append(place)
        place.below.append(places[target])
    return rows


def _drawn(place: _Place) -> list[str]:
    """Return the ways on from a place, and its box and text if it has them."""
    bottom, drawn = place.y + place.height, []
    for one in place.below:
        kind = "last way" if one.node else "way"
        drawn.append(f'<path class="{kind}" d="M{place.middle:.1f} {bottom:.1f}L{one.middle:.1f} {one.y:.1f}"/>')
    if not place.lines:
        return [*drawn, f'<path class="way" d="M{place.middle:.1f} {place.y:.1f}V{bottom:.1f}"/>']
    kind = "node" if place.node else "label"
    if place.node:
        size = f'width="{place.width:.1f}" height="{place.height:.1f}"'
        drawn.append(f'<rect x="{place.x:.1f}" y="{place.y:.1f}" {size} rx="4"/>')
    for k, line in enumerate(place.lines, 1):
        at = f'x="{place.x + PAD:.1f}" y="{place.y + PAD + k * LINE - 4:.1f}"'
        drawn.append(f'<text class="{kind}" {at} xml:space="preserve">{escape(line)}</text>')
    return drawn
