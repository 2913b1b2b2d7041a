"""The answer key: each claim's texts, lines, formulas and evidence hold together, and what is planted is noticed."""

import dataclasses
import inspect
import io
import json
import random
import re
from collections import Counter
from importlib.resources import files
from itertools import pairwise

import document_lines
import pytest
import torch
from answers_checked import of_the_document, of_the_texts, problems
from broken_worlds import falls
from grouped import of_document
from planting_answers import OF_THE_AUDIT, edits, survivors
from rich.console import Console

from backprop_rules import InputError
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.answers import DOCUMENTS, LANGUAGES, Seen, Verdict, claims, drawn, tools
from backprop_rules.documents.answers.claim import EvidenceFails, Said, evidence_of, holds
from backprop_rules.documents.answers.remembered import Remembered
from backprop_rules.documents.answers.report import WORDS, as_dict, runs_told, settled, shown, told_in, unsettled
from backprop_rules.formula import columns
from backprop_rules.teaching.told import language

EVERY = [claim for document in DOCUMENTS for claim in claims(document)]
every_claim = pytest.mark.parametrize("claim", EVERY, ids=lambda claim: f"{claim.document}-{claim.id}")
grouped_claims = pytest.mark.parametrize(
    "claim", [pytest.param(c, id=f"{c.document}-{c.id}", marks=of_document(c.document)) for c in EVERY]
)
HAN = re.compile("[\u4e00-\u9fff]")


@grouped_claims
def test_the_evidence_bears_the_verdict_out(settled, claim):
    (one,) = (found for found in settled(claim.document) if found.claim is claim)
    assert one.seen is not None, one.error
    assert one.seen.shown
    assert told_in("zh", claim.document, one.seen.shown)


@every_claim
def test_what_is_said_is_the_same_in_both_languages_and_stands_in_fields(claim):
    assert not list(of_the_texts(claim))


@pytest.mark.skipif(
    not document_lines.FOLDER.is_dir(), reason="the documents, others' texts, are not beside the project"
)
@every_claim
def test_the_lines_and_their_formula_stand_in_the_document(claim):
    assert not list(of_the_document(claim))


def test_each_claim_has_a_name_and_each_evidence_a_claim():
    assert len(EVERY) >= 140
    assert max(Counter((c.document, c.id) for c in EVERY).values()) == 1
    assert {claim.verdict for claim in EVERY} == set(Verdict)
    for document in DOCUMENTS:
        evidence = evidence_of(document)
        assert {one for one in evidence.values() if is_evidence(one)} <= {evidence[c.id] for c in claims(document)}


def is_evidence(found):
    if not inspect.isfunction(found):
        return False
    signature = inspect.signature(found)
    return signature.return_annotation is Seen and [p.annotation for p in signature.parameters.values()] == [Said]


@grouped_claims
def test_the_evidence_falls_where_what_it_looks_at_is_broken(claim):
    assert falls(claim) is not None


def claim_named(name):
    (claim,) = (c for c in EVERY if c.id == name)
    return claim


@pytest.mark.parametrize(("name", "change"), OF_THE_AUDIT, ids=lambda part: part if isinstance(part, str) else "")
def test_what_the_audit_planted_is_noticed(name, change):
    claim = claim_named(name)
    changed = change(claim)
    if (changed.says, changed.verdict) == (claim.says, claim.verdict) and not document_lines.FOLDER.is_dir():
        pytest.skip("the documents, others' texts, are not beside the project: their lines and formulas are not held")
    assert next(problems(changed), None) is not None


@pytest.mark.parametrize("document", [pytest.param(d, marks=of_document(d)) for d in DOCUMENTS])
def test_what_is_planted_is_noticed(document):
    numbers = random.Random(document)
    every = [one for claim in claims(document) for one in edits(claim, numbers)]
    assert not list(survivors(numbers.sample(every, 25)))


def test_the_words_around_the_claims_are_the_same_in_both_languages():
    assert set(WORDS["en"]) == set(WORDS["zh"])
    fields = re.compile(r"{(\w+)")
    for name, words in WORDS["en"].items():
        assert sorted(fields.findall(words)) == sorted(fields.findall(WORDS["zh"][name]))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
        ({"LC_ALL": "zh_TW.UTF-8", "LANG": "en_GB.UTF-8"}, "zh"),
        ({"LC_ALL": "", "LC_MESSAGES": "C", "LANG": "zh_CN.UTF-8"}, "en"),
    ],
)
def test_the_language_is_the_locales(monkeypatch, environment, expected):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language(None) == expected
    assert language("en") == "en"


def shapes_fit_with(evidence, **says):
    return dataclasses.replace(claim_named("shapes_fit"), says=says, evidence=evidence)


def test_evidence_that_fails_says_what_it_saw():
    with pytest.raises(EvidenceFails) as failure:
        shapes_fit_with(lambda said: holds(False, "x = [[1]]")).settled()
    assert str(failure.value) == (
        "two_layer_network, line 19-23, 48, shapes_fit: the verdict is 'holds', and the evidence does not bear it out: "
        "x = [[1]]. Either what the claim is about has changed, a rule or torch, or what is said of it is wrong."
    )


def test_evidence_that_looks_away_is_no_evidence():
    with pytest.raises(EvidenceFails, match="the evidence does not look at what is said of number"):
        shapes_fit_with(lambda said: holds(True, "x = [[1]]"), number="1").settled()


def test_evidence_speaks_for_one_verdict():
    for verdict in set(Verdict) - {Verdict.HOLDS}:
        other = dataclasses.replace(shapes_fit_with(lambda said: holds(True, "1 = 1")), verdict=verdict)
        with pytest.raises(EvidenceFails, match=f"the verdict is '{verdict}', and the evidence speaks for 'holds'"):
            other.settled()


def test_a_wrong_rule_breaks_the_evidence():
    double = dataclasses.replace(matmul, backward=lambda grad_y, y, a, b: (grad_y @ b.mT * 2, a.mT @ grad_y))
    assert tools.verified(matmul, 20) == (True, "matmul: 20 «points», «no counterexample»")
    assert not tools.verified(double, 20)[0]


def test_a_counterexample_is_small():
    found = drawn.counterexample(lambda x: bool((x * x >= 2 * x).all()), x="n m")
    assert found["x"].tolist() == [[1]]
    assert drawn.counterexample(lambda x: bool((x * x >= 0).all()), x="n m") is None
    assert drawn.told(found) == "x = [[1]]"


def test_letters_stand_for_one_size_each():
    def fits(x, w, b):
        return x.shape[1] == w.shape[0] and b.shape == (1, w.shape[1]) and len(x) == 2

    assert drawn.counterexample(fits, x="2 d", w="d h", b="1 h") is None
    assert drawn.counterexample(lambda x, w: len(x) == len(w), x="n", w="m") is not None


def test_unknown_documents_and_languages_are_refused():
    with pytest.raises(InputError, match=r"there is no document 'linear'\. Did you mean 'linear_model'\?"):
        claims("linear")
    with pytest.raises(InputError, match=r"there is no language 'fr'\. Known: en, zh\."):
        language("fr")


@of_document("two_layer_network")
def test_json_has_everything_in_both_languages(settled):
    checked, told = as_dict(settled("two_layer_network")[0]), as_dict(next(iter(unsettled("two_layer_network"))))
    assert json.loads(json.dumps(checked)) == checked
    assert checked["borne_out"]
    assert told["borne_out"] is told["seen"] is None
    assert set(checked["claim"]) == set(checked["answer"]) == set(checked["seen"]) == set(LANGUAGES)


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_claim_is_told_in_lines_that_are_full_also_in_chinese(document, lang, width):
    """Where a line ends before it is full, what follows is a word that no longer fits."""
    for one in unsettled(document):
        console = Console(width=width, file=io.StringIO())
        console.print(shown(one, lang), highlight=False)
        lines = console.file.getvalue().splitlines()
        below = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
        assert not any(line.endswith(" ") for line in below)
        texts = one.claim.statement(lang), f"→ {one.claim.answered(lang)}"
        assert re.sub(r"\s", "", "".join(below)) == re.sub(r"\s", "", "".join(texts))
        assert not any(re.match("[，。；：、！？）”》]", line) for line in below)
        for line, after in pairwise(below[1:] if texts[0] == below[0] else below):
            letters = re.match(r"[（“]*[\u2e80-\u9fff][，。；：、！？）”》]*", after)
            assert letters is None or columns(f"{line} {letters[0]}") > width - 4 or line in texts[0]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_runs_are_told_in_both_languages(lang):
    told = runs_told("linear_model", lang)
    assert "300" in told
    assert "1.9999996423721313" in told
    assert "151" in told
    assert bool(HAN.search(told)) == (lang == "zh")


def test_what_was_found_is_remembered_until_something_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Remembered()
    shown = [one.seen.shown for one in settled("one_parameter_regression", first)]
    first.write()
    monkeypatch.setattr("backprop_rules.documents.answers.claim.Claim.settled", lambda claim: 1 / 0)
    again = Remembered()
    assert [one.seen.shown for one in settled("one_parameter_regression", again)] == shown
    monkeypatch.setattr(torch, "__version__", "0.0")
    with pytest.raises(ZeroDivisionError):
        list(settled("one_parameter_regression", Remembered()))
    again.path.write_text("[")
    assert Remembered().found == {}


def test_the_documents_of_the_programs_are_the_documents():
    assert {program.document for program in PROGRAMS.values()} == {f"{name}.md" for name in DOCUMENTS}


def test_there_is_a_text_for_each_document():
    texts = {
        path.name.removesuffix(".toml")
        for path in files("backprop_rules.documents.answers").joinpath("texts").iterdir()
    }
    assert texts == set(DOCUMENTS)
