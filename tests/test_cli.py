"""The command line, typed as a user would."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from planted import PLANTED

from backprop_rules import CATALOGUE, cli
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.answers import claims
from backprop_rules.documents.answers.claim import wrong
from backprop_rules.documents.baselines import folder
from backprop_rules.subject.devices import devices_here


@pytest.fixture
def run(capsys, monkeypatch):
    """Return a function that runs a command line and returns exit code, output and errors."""
    monkeypatch.delenv("CI", raising=False)

    def command(*words):
        monkeypatch.setattr("sys.argv", ["backprop-rules", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return command


def test_verify_prints_a_row_for_each_rule_and_exits_0(run):
    code, out, _ = run("verify", "matmul", "linear_model", "--examples", "20", "--seed", "3")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["rule", "points", "exact", "proved", "torch", "outside", "properties", "time"]
    assert re.fullmatch(r"matmul +20 +10 +\d+ +\d+ +all 13 hold +\d+\.\d\d s", lines[1].strip())
    assert re.fullmatch(r"linear_model +300 steps +w: autograd, certified, baseline +\d+\.\d\d s", lines[2].strip())
    assert re.fullmatch(r"1 rule, 20 points \(\d+\.\d ms a point\), 300 recorded steps: all right\. Seed 3\.", lines[3])


def test_verify_without_names_takes_every_rule_and_program(run):
    code, out, _ = run("verify", "--examples", "20", "--proofs", "1")
    assert code == 0
    first_words = {line.split()[0] for line in out.splitlines() if line[:1].strip()}
    assert first_words >= {*CATALOGUE, *PROGRAMS}


def test_verify_of_a_wrong_rule_prints_the_counterexample_and_exits_1(run, monkeypatch):
    planted = next(p for p in PLANTED if str(p) == "mean: sum instead of mean")
    monkeypatch.setitem(CATALOGUE, "mean", planted.as_rule())
    code, out, _ = run("verify", "mean", "--examples", "100")
    assert code == 1
    assert "1 wrong. Seed 0." in out
    assert (
        """
mean: wrong.
    what      the gradient of x is wrong at [0], 2 of 2 elements
    expected  0.5
    got       1.0
    against   certified, torch's own gradient agrees
    right     shape, dtype and device
    likely    the gradient of x is to be 1 / the size of axis 0 of `x` times as large
The smallest counterexample found:
    import torch
    x = torch.tensor([0.0, 0.0], dtype=torch.float64)
    dim = -1
    keepdim = False
    dtype = None
    grad_y = torch.tensor(1.0, dtype=torch.float64)
    backward(grad_y, y, x, dim=dim, keepdim=keepdim, dtype=dtype)
The function: yᵢ = (1/n) Σⱼ₌₁ⁿ xᵢⱼ: x̄ᵢⱼ = (1/n) ȳᵢ
"""
        in out
    )


def test_verify_speaks_of_functions_that_round_in_float64_alone(run):
    code, out, _ = run("verify", "softmax", "--dtype", "float64", "--device", "cpu")
    assert code == 0, out


@pytest.mark.parametrize("dtype", ["float64", "torch.bfloat16", "complex64"])
def test_verify_takes_a_dtype(run, dtype):
    code, out, _ = run("verify", "add", "--examples", "10", "--dtype", dtype, "--device", "cpu")
    assert code == 0
    assert "10 points" in out


def test_verify_on_meta_tensors_asks_for_shapes(run, monkeypatch):
    def placed(grad_y, y, x):
        return torch.empty_like(x, device="cpu") if x.device.type == "meta" else -grad_y

    monkeypatch.setitem(CATALOGUE, "neg", dataclasses.replace(CATALOGUE["neg"], backward=placed))
    code, out, _ = run("verify", "neg", "--device", "cpu", "--device", "meta")
    assert code == 1
    assert "has the wrong device" in out


USAGE_ERRORS = {
    "unknown rule": (
        ("verify", "matmull"),
        "backprop-rules: there is no rule or program 'matmull'. Did you mean 'matmul'? Known: ",
    ),
    "unknown dtype": (
        ("verify", "--dtype", "float23"),
        "backprop-rules: there is no dtype 'float23'. Did you mean 'float32'? Known: bfloat16, complex128, complex64, "
        "float16, float32, float64.",
    ),
    "unknown device": (
        ("verify", "--device", "gpu"),
        "backprop-rules: there is no device 'gpu'. Did you mean 'cpu'? Known: cpu, cuda, meta.",
    ),
    "dtype outside the domain": (
        ("verify", "relu", "--dtype", "complex64"),
        "backprop-rules: relu: none of the dtypes asked for is in its domain: float64, float32, float16, bfloat16.",
    ),
}


@pytest.mark.parametrize("case", USAGE_ERRORS)
def test_a_usage_error_is_one_line_and_exits_2(run, case):
    words, message = USAGE_ERRORS[case]
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [("verify", "--examples", "0"), ("verify", "--seed", "x"), ("verfy",), ("list", "-o")]
)
def test_what_the_parser_refuses_exits_2(run, words):
    code, _, err = run(*words)
    assert code == 2
    assert "Traceback" not in err


def test_a_device_that_is_not_here_is_refused(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run("verify", "--device", "cuda")
    assert code == 2
    assert "the device 'cuda' cannot be used: torch " in err
    assert "finds no CUDA GPU here. Devices here: cpu, meta." in err


def test_a_cuda_device_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices_here() == ("cpu", "cuda", "meta")


def test_a_missing_baseline_is_reported_and_exits_1(run, tmp_path):
    code, out, _ = run("verify", "linear_model", "--baselines", str(tmp_path))
    assert code == 1
    assert "linear_model: the baseline linear_model.json cannot be read: No such file or directory." in out


def test_list_shows_every_rule(run):
    code, out, _ = run("list")
    assert code == 0
    assert all(re.search(rf"^{name} ", out, re.MULTILINE) for name in CATALOGUE)


def test_list_as_json_is_an_array_of_objects(run):
    code, out, _ = run("list", "--output-format", "json")
    assert code == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == list(CATALOGUE)
    for row in rows:
        assert {"name", "chapter", "primals", "params", "formula", "source"} <= set(row)
        assert row["primals"]
        assert all(isinstance(row[key], str) and row[key] for key in ("name", "chapter", "formula", "source"))


def test_the_command_without_words_shows_its_help(run):
    code, out, err = run()
    assert code == 2
    assert "verify" in out + err


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    shutil.copytree(folder(), tmp_path / "baselines")
    monkeypatch.setattr("backprop_rules.documents.baselines.FOLDERS", (tmp_path / "baselines",))
    return tmp_path / "baselines"


def test_baselines_check_passes_on_what_is_recorded(run):
    code, out, _ = run("baselines", "check")
    assert code == 0
    assert "linear_model" in out


def test_baselines_check_finds_a_changed_one(run, recorded):
    path = recorded / "one_parameter_regression.json"
    path.write_text(path.read_text().replace("1.46", "1.47"))
    code, _, err = run("baselines", "check")
    assert code == 1
    assert "one_parameter_regression, step 2: the parameter w, element 0, is 1.46 (" in err
    assert "but 1.47 (0x1.7851eb851eb85p+0) was recorded in the baseline" in err


def test_baselines_update_says_what_differs_and_writes_only_if_told_to(run, recorded, monkeypatch):
    path = recorded / "one_parameter_regression.json"
    right = path.read_text()
    path.write_text(right.replace('"torch"', '"torch_version"'))
    monkeypatch.setattr("typer.confirm", lambda question: False)
    code, out, _ = run("baselines", "update")
    assert code == 0
    assert "one_parameter_regression.json: 2 values changed:\n    torch: nothing → " in out
    assert path.read_text() != right
    code, out, _ = run("baselines", "update", "--yes")
    assert code == 0
    # Only programs whose sums may be in any order have other bits on another machine.
    written = {path.stem for path in recorded.iterdir() if f"{path.name}:" in out}
    assert written - {name for name, program in PROGRAMS.items() if not program.fixed} == {"one_parameter_regression"}
    assert out.endswith(f"{len(written)} file{'s' * (len(written) > 1)} written.\n")
    assert json.loads(path.read_text())["steps"] == json.loads(right)["steps"]


def test_baselines_update_shows_the_first_values_that_change(run, recorded, monkeypatch):
    path = recorded / "linear_model.json"
    record = json.loads(path.read_text())
    for step in record["steps"][16:]:
        step["loss"]["found"] = [0.5]
    record["steps"][0]["loss"]["lo"] = [0.5]
    path.write_text(json.dumps(record))
    monkeypatch.setattr("typer.confirm", lambda question: False)
    _, out, _ = run("baselines", "update")
    first, second, third, *_, last = out[out.index("linear_model.json") :].splitlines()[:7]
    assert first == "linear_model.json: 285 values changed:"
    assert second == "    step 1, loss, lo of the true one: [0.5] → [1.0]"
    assert third.startswith("    step 17, loss: [0.5] → [")
    assert last == "    … and 280 more"


def test_baselines_update_replaces_what_cannot_be_read(run, recorded, monkeypatch):
    (recorded / "linear_model.json").write_text("{")
    monkeypatch.setattr("typer.confirm", lambda question: False)
    _, out, _ = run("baselines", "update")
    assert "linear_model.json: 1 value changed:\n    what is there cannot be read, and is replaced as a whole" in out


def test_baselines_update_refuses_where_ci_is_set(run, recorded, monkeypatch):
    monkeypatch.setenv("CI", "true")
    code, _, err = run("baselines", "update", "--yes")
    assert code == 2
    assert "baselines are not rewritten where CI is set" in err


def test_a_test_run_leaves_the_baselines_alone(run, recorded):
    before = {path.name: path.read_bytes() for path in recorded.iterdir()}
    run("verify", *PROGRAMS)
    run("baselines", "check")
    assert before == {path.name: path.read_bytes() for path in recorded.iterdir()}


def test_documents_settles_one_document_in_the_language_asked_for(run):
    code, out, _ = run("documents", "one_parameter_regression.md", "--lang", "zh", "--check")
    assert code == 0
    assert "第 124-127 行  成立" in out
    assert f"one_parameter_regression.md：共 {len(claims('one_parameter_regression'))} 条论断" in out
    assert "没有反例" in out
    assert out.endswith("每个判定都有证据支持。\n")


def test_documents_runs_no_evidence_unless_it_is_asked_to(run, monkeypatch):
    monkeypatch.setattr("backprop_rules.documents.answers.claim.Claim.settled", lambda claim: 1 / 0)
    code, out, _ = run("documents", "one_parameter_regression", "--lang", "en")
    assert code == 0
    assert "By hand l = ½·(3.2 − 5)² = 1.62. It is larger than the first, 0.5" in " ".join(out.split())
    assert "Seen:" not in out
    assert out.endswith(
        "The evidence was not run: --check runs it, and holds the training runs against the true ones.\n"
    )


def test_documents_as_json_is_an_array_of_every_claim(run):
    code, out, _ = run("documents", "one_parameter_regression", "--output-format", "json", "--check")
    found = json.loads(out)
    assert code == 0
    assert len(found) == len(claims("one_parameter_regression"))
    assert all(claim["borne_out"] for claim in found)
    (loss,) = [claim for claim in found if claim["id"] == "second_loss"]
    assert (loss["lines"], loss["verdict"], loss["says"]["before"]) == ("124-127", "holds", "0.5")


def test_documents_exits_1_where_a_verdict_is_no_longer_borne_out(run, monkeypatch):
    claim = replace(claims("two_layer_network")[0], evidence=lambda said: wrong(True, True, "seen otherwise"))
    monkeypatch.setattr("backprop_rules.documents.answers.report.claims", lambda document: (claim,))
    code, out, _ = run("documents", "two_layer_network", "--lang", "en", "--check")
    assert code == 1
    assert "THE EVIDENCE FAILS: two_layer_network, line 12, 41, derivation_explains_the_code" in out
    assert out.endswith("Verdicts that are not borne out by their evidence: 1.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("documents", "linear"), "there is no document 'linear'. Did you mean 'linear_model'?"),
        (("documents", "--lang", "fr"), "there is no language 'fr'. Known: en, zh."),
        (("explain", "matmull"), "there is no rule 'matmull'. Did you mean 'matmul'?"),
        (("trace", "linear"), "there is no program 'linear'. Did you mean 'linear_model'?"),
        (("trace", "linear_model", "--step", "301"), "linear_model has 300 steps, and 301 is none of them."),
    ],
)
def test_what_the_answer_key_does_not_have_is_a_usage_error(run, words, message):
    code, out, err = run(*words)
    assert code == 2
    assert not out
    assert message in err


def test_explain_tells_the_choice_at_a_kink_and_the_mistake_of_the_document(run):
    code, out, _ = run("explain", "clamp")
    assert code == 0
    for part in (
        "y = min(max(x, a), b): x̄ = ȳ [a ≤ x ≤ b] [a < b]",
        "∂L/∂x₃ = ȳ₃",
        "def clamp(grad_y: Tensor, y: Tensor, x: Tensor, *, min: Number = None, max: Number = None) -> Tensor:",
        "Checked: each lies within proved bounds of the true gradient",
        f"1 by this rule, 1 by torch {torch.__version__}",
        "masked by the cotangent: the cotangent is clamped at zero where it should be masked by the input",
    ):
        assert part in out


def test_explain_takes_a_rule_of_your_own(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "explained_rule.py").write_text(CUBE)
    code, out, _ = run("explain", "cube", "--import", "explained_rule")
    CATALOGUE.pop("cube", None)
    assert code == 0
    assert "y = x³: x̄ = 3 x² ȳ" in out
    assert "∂L/∂xᵢ = ȳᵢ·∂yᵢ/∂xᵢ = 3·ȳᵢ·xᵢ^2" in out


CUBE = '''
from backprop_rules import Domain, rule

@rule(forward=lambda x: x * x * x, definition=lambda x: x**3, domain=Domain("...", degree=3, power=3), saves="x",
      formula=r"y = x^3:\\quad \\bar x = 3 x^2 \\bar y", source="any textbook")
def cube(grad_y, y, x):
    """The cube of x."""
    return grad_y * (3 * x * x).conj()
'''


@pytest.mark.parametrize("option", ["--format", "--output-format"])
@pytest.mark.parametrize("kind", ["table", "mermaid", "dot", "json", "svg"])
def test_trace_shows_the_graph_of_a_step(run, kind, option):
    code, out, _ = run("trace", "two_layer_network", "--step", "2", option, kind, "--lang", "en")
    assert code == 0
    assert "clamp(hidden, min=0)" in out
    assert ("4 of 8 elements" in out) == (kind == "table")


def test_explain_and_trace_are_told_in_the_language_asked_for(run, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    for words, said in ((("explain", "exp"), "常见错误"), (("trace", "linear_model"), "传来")):
        assert said in run(*words)[1]
        assert said not in run(*words, "--lang", "en")[1]
        code, _, err = run(*words, "--lang", "fr")
        assert code == 2
        assert "there is no language 'fr'. Known: en, zh." in err


def test_what_a_module_has_loaded_is_let_go_before_it_complains_at_the_end(tmp_path):
    (tmp_path / "with_triton.py").write_text("import triton\n" + CUBE)
    words = [sys.executable, "-m", "backprop_rules", "verify", "--examples", "5", "--import", "with_triton"]
    done = subprocess.run(words, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()


def test_verify_with_an_import_verifies_the_rules_of_the_module(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "imported_rule.py").write_text(CUBE)
    (tmp_path / "imported_nothing.py").write_text("import torch\n")
    words = ("verify", "--examples", "5", "--import")
    code, out, _ = run(*words, "imported_rule")
    again, same, _ = run(*words, "imported_rule.py")
    CATALOGUE.pop("cube", None)
    assert code == again == 0
    for text in (out, same):
        assert "cube" in text
        assert "matmul" not in text
        assert "two_layer_network" not in text
    code, _, err = run(*words, "imported_nothing")
    assert code == 2
    assert "the module 'imported_nothing' declares no rule" in " ".join(err.split())
