"""The answer key: every claim of the documents has texts in both languages, and evidence that bears its verdict out."""

import dataclasses
import inspect
import json
import re
import tomllib
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from grouped import of_document

from backprop_rules import InputError
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.documents import PROGRAMS, answers
from backprop_rules.documents.answers import DOCUMENTS, LANGUAGES, Seen, Verdict, claims, drawn, tools
from backprop_rules.documents.answers.claim import NEEDED, EvidenceFails, evidence_of
from backprop_rules.documents.answers.report import WORDS, as_dict, language, runs_told

EVERY = [claim for document in DOCUMENTS for claim in claims(document)]
every_claim = pytest.mark.parametrize("claim", EVERY, ids=lambda claim: f"{claim.document}-{claim.id}")
HAN = re.compile("[\u4e00-\u9fff]")


@pytest.mark.parametrize(
    "claim", [pytest.param(c, id=f"{c.document}-{c.id}", marks=of_document(c.document)) for c in EVERY]
)
def test_the_evidence_bears_the_verdict_out_and_no_other(settled, claim):
    (one,) = (found for found in settled(claim.document) if found.claim is claim)
    seen = one.seen
    assert seen is not None, one.error
    assert seen.shown
    remembered = dataclasses.replace(claim, evidence=lambda *number: seen)
    for verdict in Verdict:
        turned = dataclasses.replace(remembered, verdict=verdict)
        if NEEDED[verdict] == NEEDED[claim.verdict]:
            assert turned.settled() is seen
        else:
            with pytest.raises(EvidenceFails, match=f"the verdict '{verdict}' needs"):
                turned.settled()


@pytest.mark.parametrize("claim", [c for c in EVERY if c.number is not None], ids=lambda claim: claim.id)
@pytest.mark.parametrize("change", [lambda n: n + Fraction(1, 100), lambda n: -n if n else n + 1])
def test_another_number_is_not_borne_out(claim, change):
    with pytest.raises(EvidenceFails):
        dataclasses.replace(claim, number=change(claim.number)).settled()


@every_claim
def test_no_claim_lacks_a_text_in_either_language(claim):
    for texts in (claim.claim, claim.answer):
        assert set(texts) == set(LANGUAGES)
        assert all(text.strip() for text in texts.values())
        assert HAN.search(texts["zh"])
        assert not HAN.search(texts["en"])


def test_there_are_at_least_forty_claims_and_each_of_its_own():
    assert len(EVERY) >= 40
    assert {claim.document for claim in EVERY} == set(DOCUMENTS)
    assert max(Counter((c.document, c.id) for c in EVERY).values()) == 1
    assert len({claim.evidence for claim in EVERY}) == len(EVERY)
    assert {claim.verdict for claim in EVERY} == set(Verdict)


def is_evidence(function):
    signature = inspect.signature(function)
    return signature.return_annotation is Seen and list(signature.parameters) in ([], ["number"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_evidence_belongs_to_a_claim(document):
    functions = {name for name, f in evidence_of(document).items() if inspect.isfunction(f) and is_evidence(f)}
    assert functions == {claim.id for claim in claims(document)}


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


def test_evidence_that_fails_says_what_it_saw(monkeypatch):
    claim = dataclasses.replace(claims("two_layer_network")[0], evidence=lambda: Seen(True, False, "x = [[1]]"))
    with pytest.raises(EvidenceFails) as failure:
        claim.settled()
    assert str(failure.value) == (
        "two_layer_network, line 12, derivation_explains_the_code: the verdict 'wrong' needs (stated, amended) = "
        "(False, True), but the evidence came out as (True, False): x = [[1]]. Either what the claim is about has "
        "changed, a rule or torch, or the verdict is wrong."
    )


def test_a_wrong_rule_breaks_the_evidence(monkeypatch):
    wrong = dataclasses.replace(matmul, backward=lambda grad_y, y, a, b: (grad_y @ b.mT * 2, a.mT @ grad_y))
    right = tools.verified(matmul, 20)()
    assert right.stated
    assert right.shown == "the rule matmul agrees with every oracle at 20 points (bounded, exact)"
    assert not tools.verified(wrong, 20)().stated


def test_a_counterexample_is_the_smallest():
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
    one = as_dict(settled("two_layer_network")[0])
    assert json.loads(json.dumps(one)) == one
    assert one["borne_out"]
    assert set(one["claim"]) == set(one["answer"]) == set(LANGUAGES)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_runs_are_told_in_both_languages(lang):
    told = runs_told("linear_model", lang)
    assert "300" in told
    assert "1.9999996423721313" in told
    assert "151" in told
    assert bool(HAN.search(told)) == (lang == "zh")


def test_the_documents_of_the_programs_are_the_documents():
    assert {program.document for program in PROGRAMS.values()} == {f"{name}.md" for name in DOCUMENTS}


def test_the_texts_are_plain_data():
    for path in Path(answers.__file__).parent.glob("texts/*.toml"):
        assert all(Verdict(entry["verdict"]) for entry in tomllib.loads(path.read_text("utf-8"))["claim"])


def test_the_printed_rule_is_followed_with_its_own_numbers():
    (one,) = [c for c in claims("two_layer_network") if c.id == "learning_rate_learns"]
    assert re.fullmatch(
        r"20 epochs at 1e-06: as printed 24.1707 → 24.1077, .*; 2000 epochs at 0.0001: as printed 24.1707 → 1.29\S*e-06"
        r", with the gradient 24.1707 → 5.05\S*e-07",
        one.settled().shown,
    )
    assert torch.get_default_dtype() == torch.float32
