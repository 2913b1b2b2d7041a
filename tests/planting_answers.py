"""Plant errors in the answer key, one at a time, and print which nobody noticed: python tests/planting_answers.py"""

import argparse
import random
import re
import sys
from collections import Counter
from dataclasses import replace

import document_lines
from answers_checked import problems

from backprop_rules.documents.answers import DOCUMENTS, LANGUAGES, Verdict, claims

SWAPS = [
    (re.compile(r"(\d)"), lambda m: str((int(m[1]) + 1) % 10)),
    (re.compile(r"([+−-])(?=[\s\d(\w])"), lambda m: "−" if m[1] == "+" else "+"),
    (re.compile(r"(≥|>|<|≤|==|!=|≠|(?<![=!<>])=(?!=))"), lambda m: {
        "≥": "<", ">": "<", "<": ">", "≤": ">", "==": "!=", "!=": "==", "≠": "=", "=": "≠",
    }[m[1]]),
    (re.compile(r"(\w+)( [×·@] |·)(\w+ᵀ)"), lambda m: f"{m[3]}{m[2]}{m[1]}"),
    (re.compile(r"(\w*ᵀ)( × | · |·)(\d?\([^()]*\)|∂[\wŷ/∂]+)"), lambda m: f"{m[3]}{m[2]}{m[1]}"),
    (re.compile(r"ᵀ"), lambda m: ""),
    (re.compile(r"(max|min)"), lambda m: "min" if m[1] == "max" else "max"),
    (re.compile(r"(True|False)"), lambda m: str(m[1] == "False")),
]  # fmt: skip
WORDS = re.compile(r"[A-Za-z]{3,}")


def said(name, old, new):
    """Return the change of one thing that a claim says."""

    def change(claim):
        assert old in claim.says[name]
        return replace(claim, says={**claim.says, name: claim.says[name].replace(old, new, 1)})

    return change


def with_(**fields):
    return lambda claim: replace(claim, **fields)


OF_THE_AUDIT = [  # each was noticed by nothing before: numbers, corrections, formulas, lines, verdicts
    ("expressions_cannot_do_it", said("paths", "44100", "44200")),
    ("complex_models_take_more_work", said("output", "8820", "8280")),
    ("weights_in_all", said("all", "224", "242")),
    ("the_update_follows_the_loss", said("printed", "7.3159", "14")),
    ("zero_clears_the_gradient", said("high", "3.06", "2.06")),
    ("prediction_after_training", said("printed", "7.999998569488525", "8")),
    ("weight_before_the_second_step", said("stored", "2476979795053773", "2476979795053774")),
    ("learning_rate_learns", said("middle", "0.03%", "0.26%")),
    ("code_for_w1", said("share", "14%", "41%")),
    ("loss_falls", said("equal", "37%", "35%")),
    ("cotangent_clamped", said("mask", "h1 == 0", "h1 != 0")),
    ("cotangent_clamped", said("true", "-2", "2")),
    ("order_of_the_factors_for_w2", said("order", "h1ᵀ × 2(ŷ − y)", "2(ŷ − y) × h1ᵀ")),
    ("chain_rule_for_w1_in_this_order", said("order", "xᵀ × 2(ŷ − y) × w2ᵀ", "2(ŷ − y) × w2ᵀ × xᵀ")),
    ("name_of_what_arrives", said("by_x", "∂loss/∂z · ∂z/∂x", "∂loss/∂x · ∂z/∂x")),
    ("formula_for_w1_without_the_clamp", said("masked", "≥ 0", "≤ 0")),
    ("vector_rule_for_w", with_(formula="δL/δW = δL/δy · xᵀ")),
    ("update_rule", with_(formula="w_{k+1} = w_k + lr*dl/dw")),
    ("gradient_of_the_squared_errors", with_(formula="∂loss/∂ŷ = 2(y − ŷ)")),
    ("first_loss", with_(lines="60-63")),
    ("data_holds_the_value", with_(lines="119")),
    ("x_becomes_a_tensor", with_(verdict=Verdict.WRONG)),
    ("code_for_w1", with_(verdict=Verdict.HOLDS_IF)),
    ("factor_of_the_wrong_variable", with_(verdict=Verdict.WRONG)),
]


def changed(text, numbers):
    """Yield the texts that differ from this one in one number, sign, relation, order, transpose or word of code."""
    for pattern, other in SWAPS:
        found = list(pattern.finditer(text))
        if found:
            m = numbers.choice(found)
            new = text[: m.start()] + other(m) + text[m.end() :]
            if new != text:
                yield new
    if not any(pattern.search(text) for pattern, _ in SWAPS) and (words := list(WORDS.finditer(text))):
        m = numbers.choice(words)
        yield text[: m.start()] + m[0][::-1] + text[m.end() :]


def edits(claim, numbers):
    """Yield what is changed and the claim so changed."""
    for name, text in claim.says.items():
        for new in changed(text, numbers):
            yield f"{name}: {text} → {new}", replace(claim, says={**claim.says, name: new})
    if claim.formula:
        for new in changed(claim.formula, numbers):
            yield f"formula: {claim.formula} → {new}", replace(claim, formula=new)
    first = re.search(r"\d+", claim.lines)[0]
    for lines in (claim.lines.replace(first, str(int(first) + 1)), claim.lines.replace(first, str(int(first) - 1))):
        yield f"lines: {claim.lines} → {lines}", replace(claim, lines=lines)
    for verdict in set(Verdict) - {claim.verdict}:
        yield f"verdict: {claim.verdict} → {verdict}", replace(claim, verdict=verdict)
    for lang in LANGUAGES:
        for where in ("claim", "answer"):
            text = getattr(claim, where)[lang]
            for field in re.findall(r"{\w+}", text)[:1]:
                said = {**getattr(claim, where), lang: text.replace(field, "7", 1)}
                yield f"{where}.{lang}: {field} → 7", replace(claim, **{where: said})


def survivors(chosen):
    """Yield the edits that nothing objects to; lines and what stands in them are not asked where no document is."""
    for what, claim in chosen:
        if what.startswith(("lines", "formula")) and not document_lines.FOLDER.is_dir():
            continue
        if next(problems(claim), None) is None:
            yield what, claim


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=0, help="so many, drawn; all that there are if it is not said")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("documents", nargs="*", default=DOCUMENTS)
    given = parser.parse_args()
    numbers = random.Random(given.seed)
    every = [one for document in given.documents for claim in claims(document) for one in edits(claim, numbers)]
    chosen = numbers.sample(every, given.edits) if given.edits else every
    left = list(survivors(chosen))
    for what, claim in left:
        print(f"SURVIVED  {claim.document}, line {claim.lines}, {claim.id}: {what}")
    kinds = Counter(what.partition(":")[0] for what, _ in chosen)
    print(f"{len(chosen)} edits planted, of {len(every)}: {len(left)} survived. {dict(kinds.most_common(6))}")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
