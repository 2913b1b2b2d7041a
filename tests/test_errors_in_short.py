"""What somebody's error says is told in one line, and nothing of it is lost that has room there."""

import pytest

from backprop_rules.errors import CUT, LONG, first_line


@pytest.mark.parametrize("said", ["", "one word", "two  spaces\tand a tab", "a" * LONG, "ends in a stop."])
def test_what_is_short_is_told_as_it_is(said):
    assert first_line(ValueError(f"{said}\nnot this")) == said.rstrip(".")


@pytest.mark.parametrize("said", ["word " * 80, "a" * 51 + " bcd" * 80])
def test_what_is_long_is_cut_between_words(said):
    told = first_line(ValueError(said))
    assert told.endswith(CUT)
    assert LONG - 6 < len(told) <= LONG
    assert said.startswith(told.removesuffix(CUT) + " ")


@pytest.mark.parametrize("said", ["/a/path/" * 60, "undefined symbol: " + "_ZN3foo" * 60])
def test_a_word_that_has_no_room_is_cut_itself(said):
    told = first_line(ValueError(said))
    assert told == said[: LONG - len(CUT)] + CUT
