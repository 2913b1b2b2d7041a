"""The words around the claims, in each language; the texts of the claims themselves are in `texts`."""

import os
from collections.abc import Mapping

from backprop_rules.documents.answers.claim import LANGUAGES, Verdict
from backprop_rules.documents.drift import Drift
from backprop_rules.domain import dtype_name
from backprop_rules.errors import unknown

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        **{verdict: str(verdict) for verdict in Verdict},
        "line": "line {lines}",
        "seen": "Seen: {shown}",
        "fails": "THE EVIDENCE FAILS: {error}",
        "count": "{document}: {claims} claims: {verdicts}.",
        "run": "{program}: {steps} steps in {dtype}, beside the true run in ball arithmetic.",
        "true": "Every value lies in the enclosure of the true one.",
        "gap": "{name}, element {element}: {found!r}; the true one lies in [{lo!r}, {hi!r}], {units:.3g} units in the "
        "last place away.",
        "lost": "{count} of {updates} updates changed nothing, first in step {step}.",
        "standstill": "From step {step} on nothing changes any more: there {update:.3g} is to be taken from {name} = "
        "{value!r}, which is no more than half of the distance to the next number, {half:.3g}.",
        "sound": "Every verdict is borne out by its evidence.",
        "loss": "loss",
        "gradient of": "gradient of {parameter}",
        "parameter": "parameter {parameter}",
        "broken": "Verdicts that are not borne out by their evidence: {count}.",
    },
    "zh": {
        Verdict.HOLDS: "成立",
        Verdict.HOLDS_IF: "有条件成立",
        Verdict.WRONG: "错误",
        Verdict.SLIP: "笔误",
        Verdict.CANNOT_BE_CHECKED: "无法核对",
        "line": "第 {lines} 行",
        "seen": "实测：{shown}",
        "fails": "证据不再成立：{error}",
        "count": "{document}：共 {claims} 条论断：{verdicts}。",
        "run": "{program}：以 {dtype} 运行 {steps} 步，与球算术的真实轨迹对照。",
        "true": "每个值都落在真实值的包围区间内。",
        "gap": "{name}，第 {element} 个元素：{found!r}；真实值在 [{lo!r}, {hi!r}] 之内，相差 {units:.3g} 个末位单位。",
        "lost": "{updates} 次更新中有 {count} 次没有改变任何数，第一次在第 {step} 步。",
        "standstill": "从第 {step} 步起不再有任何变化：应从 {name} = {value!r} 中减去 {update:.3g}，"
        "而它不超过到下一个浮点数距离的一半 {half:.3g}。",
        "sound": "每个判定都有证据支持。",
        "loss": "损失",
        "gradient of": "{parameter} 的梯度",
        "parameter": "参数 {parameter}",
        "broken": "有 {count} 个判定得不到证据支持。",
    },
}


def language(asked: str | None) -> str:
    """Return the language that was asked for, or the locale's, or English; InputError for one that there is not."""
    if asked is not None:
        if asked not in LANGUAGES:
            raise unknown("language", asked, LANGUAGES)
        return asked
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next((name for name in names if name), "").startswith("zh") else "en"


def drift_told(drift: Drift, lang: str) -> list[str]:
    """Return how far a run is from the true one, and why, a sentence to a line."""
    words, program = WORDS[lang], drift.program
    lines = [words["run"].format(program=program.name, steps=drift.steps, dtype=dtype_name(program.dtype))]
    gaps = [words["gap"].format(**vars(gap) | {"name": value_named(gap.name, lang)}) for gap in drift.gaps]
    lines += gaps or [words["true"]]
    if drift.lost:
        lines.append(words["lost"].format(count=drift.count, updates=drift.updates, step=drift.lost.step))
    if drift.standstill:
        lines.append(words["standstill"].format(**vars(drift.standstill)))
    return lines


def value_named(name: str, lang: str) -> str:
    """Return the name of a step's value: the loss, or the gradient of a parameter, or what the parameter is then."""
    kind, _, parameter = name.rpartition(" ")
    return WORDS[lang][kind or name].format(parameter=parameter)
