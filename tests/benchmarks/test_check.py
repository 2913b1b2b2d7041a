"""How long a published wrong rule goes undetected, given its forward, its backward and one ordinary call."""

import statistics

import pytest
from real_mistakes import MISTAKES

from backprop_rules import CATALOGUE, check


def test_half_of_the_published_wrong_rules_take_less_than_a_second(capsys, request):
    if request.config.getoption("benchmark_disable"):
        pytest.skip("it runs nothing that test_real_mistakes.py does not, and times it")
    seconds = []
    for mistake in MISTAKES:
        forward = CATALOGUE[mistake.rule].forward
        report = check(
            mistake.backward, forward=forward, example=mistake.example, params=mistake.params, raise_on_failure=False
        )
        if not report.passed:
            seconds.append(report.seconds)
    with capsys.disabled():
        print(f"\n{len(seconds)} caught; median {statistics.median(seconds):.2f} s, longest {max(seconds):.1f} s")
    assert statistics.median(seconds) < 1
