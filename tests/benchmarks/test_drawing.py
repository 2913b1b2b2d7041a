"""The time that the drawing of 100 points takes, for every rule.

Run: pytest tests/benchmarks/test_drawing.py
"""

import pytest

from backprop_rules import CATALOGUE
from backprop_rules.strategies.drawing.bulk import drawn
from backprop_rules.subject.ambient import quiet


@pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)
def test_drawing_100_points(benchmark, rule):
    with quiet():  # as whoever asks at drawn points is
        benchmark.pedantic(lambda: list(drawn(rule, 100)), rounds=3)
