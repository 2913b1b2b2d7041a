"""The documents' programs: what they print, what autograd says, and what was recorded."""

import dataclasses
import json
import math
import shutil
from fractions import Fraction

import pytest
import torch

from backprop_rules import InputError
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.catalogue.losses import sum_of_squared_errors
from backprop_rules.catalogue.piecewise import clamp
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.baselines import folder, load, path_of, record
from backprop_rules.documents.certified import enclosed
from backprop_rules.documents.drift import drift
from backprop_rules.documents.replay import StepDiffers, replay

every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(folder(), tmp_path / "baselines")
    return tmp_path / "baselines"


def change(where, program, edit):
    path = path_of(program, where)
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def nudge(entry, by):
    """Change the first number of an entry by that many units in the last place of its dtype."""
    x = torch.tensor(entry["found"], dtype=torch.float32 if by > 0 else torch.float64)
    for _ in range(abs(by)):
        x.view(-1)[:1] = torch.nextafter(x.view(-1)[:1], torch.tensor(torch.inf, dtype=x.dtype))
    entry["found"] = x.tolist()


@every_program
def test_every_step_agrees_with_autograd_and_the_baseline(program):
    assert replay(program) == len(program.samples(program.inputs()))


@every_program
def test_recording_again_gives_the_recorded_steps_within_their_enclosures(program, tmp_path):
    inputs = load(program).inputs
    path_of(program, tmp_path).write_text(record(program, inputs))
    assert replay(program, tmp_path)


@every_program
def test_the_programs_use_no_autograd(program):
    inputs = load(program).inputs
    with torch.inference_mode():
        assert all(not w.requires_grad for step in program.run(inputs) for w in step.values())


def test_the_linear_model_ends_where_the_document_does():
    *_, last = PROGRAMS["linear_model"].run(load(PROGRAMS["linear_model"]).inputs)
    assert (4 * last["parameter w"]).item() == 7.999998569488525


def test_the_one_parameter_regression_has_the_documents_numbers():
    first, second = PROGRAMS["one_parameter_regression"].run(load(PROGRAMS["one_parameter_regression"]).inputs)
    assert (first["loss"].item(), first["gradient of w"].item(), first["parameter w"].item()) == (0.5, -1.0, 1.1)
    printed = [f"{value.item():.4f}" for value in (second["loss"], second["gradient of w"], second["parameter w"])]
    assert printed == ["1.6200", "-3.6000", "1.4600"]


def test_the_matmul_derivatives_are_the_documents_formulas():
    for case in ("scalar", "vector"):
        inputs = load(PROGRAMS[f"matmul_derivatives_{case}"]).inputs
        (step,) = PROGRAMS[f"matmul_derivatives_{case}"].run(inputs)
        assert torch.equal(step["gradient of x"], -inputs["w"].sum(1)[None])
        assert torch.equal(step["gradient of w"], -inputs["x"].T.expand(4, inputs["w"].shape[1]))


def test_the_rule_printed_for_the_two_layer_network_is_not_the_gradient():
    right, printed = (PROGRAMS[f"two_layer_network{suffix}"] for suffix in ("", "_as_printed"))
    inputs = load(right).inputs
    assert all(torch.equal(inputs[name], load(printed).inputs[name]) for name in inputs)
    step, wrong_step = next(right.run(inputs)), next(printed.run(inputs))
    assert torch.equal(step["gradient of w2"], wrong_step["gradient of w2"])
    assert not torch.equal(step["gradient of w1"], wrong_step["gradient of w1"])


def test_a_gradient_declared_wrong_must_be_wrong(copied):
    def masked(v):
        grad_prediction = 2 * (v["prediction"] - v["target"])
        grad_hidden = (grad_prediction @ v["w2"].T) * (v["hidden"] > 0)
        return {"w1": v["x"].T @ grad_hidden, "w2": v["active"].T @ grad_prediction}

    right = PROGRAMS["two_layer_network"]
    slandered = dataclasses.replace(right, wrong=("w1",), backward=masked)
    with pytest.raises(StepDiffers, match=r"the gradients \['w1'\] are declared wrong, but autograd gives the same"):
        replay(slandered, copied)


def test_the_printed_rule_not_declared_wrong_is_found_out(copied):
    honest = dataclasses.replace(PROGRAMS["two_layer_network_as_printed"], wrong=())
    with pytest.raises(StepDiffers, match=r"step 1: the gradient of w1, element .* was found by autograd"):
        replay(honest, copied)


def test_one_changed_bit_in_a_fixed_program_is_found_with_its_step(copied):
    program = PROGRAMS["linear_model"]
    change(copied, program, lambda record: nudge(record["steps"][16]["gradient of w"], 1))
    with pytest.raises(StepDiffers) as difference:
        replay(program, copied)
    text = str(difference.value)
    assert text.startswith("linear_model, step 17: the gradient of w, element 0, is ")
    assert "was recorded in the baseline" in text
    assert "backprop-rules baselines update" in text


@pytest.mark.parametrize("name", ["loss", "gradient of w1", "parameter w2"])
def test_a_value_outside_the_computed_enclosure_is_found_with_its_step(copied, name):
    program = PROGRAMS["two_layer_network"]

    def enlarge(record):
        entry = record["steps"][3][name]
        x = torch.tensor(entry["found"], dtype=torch.float32)
        x.view(-1)[x.abs().argmax()] *= 1 + 1e-5
        entry["found"] = x.tolist()

    change(copied, program, enlarge)
    with pytest.raises(StepDiffers, match=f"two_layer_network, step 4: the {name}, element"):
        replay(program, copied)


def test_a_wrong_rule_of_a_program_is_found_by_ball_arithmetic(copied):
    program = PROGRAMS["two_layer_network"]
    doubled = dataclasses.replace(matmul, backward=lambda grad_y, y, a, b: (grad_y @ b.mT, a.mT @ grad_y * 2))

    def forward(v):
        active = clamp(matmul(v["x"], v["w1"]), min=0)
        return {"loss": sum_of_squared_errors(doubled(active, v["w2"]), v["target"])}

    with pytest.raises(
        StepDiffers, match=r"step 1: the gradient of w2, element 3, is .*, but by ball arithmetic it lies"
    ):
        replay(dataclasses.replace(program, forward=forward), copied)


def test_a_value_in_the_computed_enclosure_is_accepted(copied):
    program = PROGRAMS["two_layer_network"]
    recorded = load(program, copied).steps[3]["loss"]
    change(copied, program, lambda record: nudge(record["steps"][3]["loss"], 1))
    assert not load(program, copied).steps[3]["loss"].equal(recorded)
    assert replay(program, copied) == 20


@every_program
def test_numbers_recorded_beside_an_input_that_is_none_are_found(program, copied):
    def spoil(record):
        entry = record["inputs"][program.parameters[-1]]
        while isinstance(entry[0], list):
            entry = entry[0]
        entry[0] = math.nan

    change(copied, program, spoil)
    with pytest.raises(StepDiffers, match=r"step 1: the .* is nan \(nan\), but .* was recorded"):
        replay(program, copied)


def test_a_missing_step_is_found(copied):
    program = PROGRAMS["linear_model"]
    change(copied, program, lambda record: record["steps"].pop())
    with pytest.raises(StepDiffers, match="the baseline has 299 steps, the program 300"):
        replay(program, copied)


def test_a_true_run_recorded_otherwise_is_found_with_its_step(copied):
    program = PROGRAMS["linear_model"]

    def move(record):
        entry = record["steps"][7]["gradient of w"]
        entry["lo"] = entry["hi"] = [math.nextafter(entry["hi"][0], math.inf)]

    change(copied, program, move)
    with pytest.raises(StepDiffers, match="step 8: the recorded enclosure of the true gradient of w has no number in"):
        replay(program, copied)


@every_program
def test_every_step_is_as_near_the_true_one_as_its_roundings_allow(program):
    inputs = load(program).inputs
    parameters = {name: inputs[name] for name in program.parameters}
    for sample, step in zip(program.samples(inputs), program.run(inputs), strict=True):
        _, true = enclosed(program, parameters, sample)
        for found in (step, program.by_autograd(parameters, sample)):
            if found is step or not program.wrong:
                assert all(true[name].outside(value) is None for name, value in found.items())
        parameters = program.after(step)


@every_program
def test_a_value_that_is_too_far_from_the_true_one_lies_outside(program):
    inputs = load(program).inputs
    parameters = {name: inputs[name] for name in program.parameters}
    step, true = enclosed(program, parameters, program.samples(inputs)[0])
    for name, value in step.items():
        assert true[name].outside(value) is None
        assert true[name].outside(value + value.abs().max() * 2.0**-16) is not None


def test_the_linear_model_stands_still_because_its_updates_are_too_small():
    program = PROGRAMS["linear_model"]
    baseline = load(program)
    found = drift(program, dataclasses.replace(baseline, steps=list(program.run(baseline.inputs))))
    assert (found.lost.step, found.standstill.step, found.count) == (130, 151, 160)
    for lost in (found.lost, found.standstill):
        assert 0 < abs(lost.update) <= lost.half == 2.0**-24
    (gap,) = [gap for gap in found.gaps if gap.name == "parameter w"]
    assert (gap.found, gap.units) == (2 - 3 * 2.0**-23, (gap.lo - gap.found) * 2**23)
    # The document's recurrence, with no rounding at all: 2 - w is multiplied by 1 - x^2 / 50 in every step.
    left = Fraction(1)
    for k, true in enumerate(baseline.true):
        left *= 1 - Fraction((1, 4, 9)[k % 3], 50)
        assert Fraction(true["parameter w"].lo.item()) <= 2 - left <= Fraction(true["parameter w"].hi.item())


CORRUPTIONS = {
    "missing": (lambda path: path.unlink(), "cannot be read: No such file or directory"),
    "cut off": (lambda path: path.write_text(path.read_text()[:1000]), "is corrupt (JSONDecodeError"),
    "no object": (lambda path: path.write_text("[]"), "is corrupt (TypeError"),
    "not text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is corrupt (UnicodeDecodeError"),
}


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_a_missing_or_corrupt_baseline_gets_one_clear_error(copied, case):
    spoil, message = CORRUPTIONS[case]
    program = PROGRAMS["linear_model"]
    spoil(path_of(program, copied))
    with pytest.raises(InputError) as refusal:
        replay(program, copied)
    text = str(refusal.value)
    assert text.startswith("linear_model: the baseline linear_model.json ")
    assert message in text
    assert "Record it anew with 'backprop-rules baselines update'" in text


EDITS = {
    "another program": (lambda r: r.update(program="other"), "is of program other, not linear_model"),
    "another dtype": (lambda r: r.update(dtype="float64"), "is of dtype float64, not float32"),
    "a missing input": (lambda r: r["inputs"].pop("x"), "no input 'x'"),
    "an input of another shape": (lambda r: r["inputs"].update(x=[1.0]), "(shape (1,), not (3,), for input 'x')"),
    "a missing value": (lambda r: r["steps"][1].pop("loss"), "step 2 has no 'loss'"),
    "a number that is none": (lambda r: r["steps"][0]["loss"].update(found=["zz"]), "is corrupt (ValueError"),
    "no true one": (lambda r: r["steps"][0]["loss"].pop("lo"), "is corrupt (KeyError"),
    "rows of two sizes": (lambda r: r["steps"][0]["loss"].update(found=[[1.0], []]), "is corrupt (ValueError"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_baseline_that_contradicts_itself_gets_one_clear_error(copied, case):
    edit, message = EDITS[case]
    program = PROGRAMS["linear_model"]
    change(copied, program, edit)
    for ask in (load, replay):
        with pytest.raises(InputError) as refusal:
            ask(program, copied)
        assert message in str(refusal.value)
