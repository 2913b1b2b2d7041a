"""What the README says is so."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_words import LOADED
from rich.console import Console

from backprop_rules import CATALOGUE
from backprop_rules.answers import DOCUMENTS, claims
from backprop_rules.answers.report import runs_told, settled, shown, summary
from backprop_rules.answers.words import WORDS
from backprop_rules.catalogue import CHAPTERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(tmp_path, *words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("block", [b for b in BLOCKS if "@rule" in b], ids=["cube", "softsign", "times_square"])
def test_the_rules_that_it_shows_are_right(tmp_path, block):
    (tmp_path / "my_rules.py").write_text(block)
    (name,) = re.findall(r"def (\w+)\(", block)
    done = run(tmp_path, "-m", "backprop_rules", "verify", "--import", "my_rules", name, "--examples", "50")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wrong_cube_is_found_out_as_it_says(tmp_path):
    (tmp_path / "my_rules.py").write_text(BLOCKS[0].replace("3 * x * x", "2 * x * x"))
    done = run(tmp_path, "-m", "backprop_rules", "verify", "--import", "my_rules", "cube", "--examples", "50")
    assert done.returncode == 1
    assert "expected  3.0\n    got       2.0\n" in done.stdout
    assert "x = torch.tensor(1.0, dtype=torch.float64)\n    grad_y = torch.tensor(1.0" in done.stdout


@pytest.mark.parametrize(
    "block",
    [b for b in BLOCKS if "@rule" not in b],
    ids=["vjp", "my_relu", "any function", "a module", "MyExp", "pytest", "trace"],
)
def test_the_programs_that_it_shows_run(tmp_path, block):
    (tmp_path / "test_program.py").write_text(block)
    if "import pytest" in block:
        done = run(tmp_path, "-m", "pytest", "-q", *LOADED, "test_program.py")
        assert "1 passed" in done.stdout, done.stdout
        return
    done = run(tmp_path, "test_program.py")
    assert done.returncode == 0, done.stderr
    if "my_relu" in block:
        (shown,) = re.findall(r"```text\n(relu: .*?)```", README, re.DOTALL)
        assert done.stdout.rpartition(" proved")[0] == shown.rpartition(" proved")[0]
    if "MyExp" in block:
        assert done.stdout == "right\n"


def test_its_table_of_kinks_is_the_declared_one():
    for rule in CATALOGUE.values():
        for c in rule.conventions:
            row = f"| `{rule}` | {c.at} | {c.value} | {c.torch or 'none'} | {c.torch_forward or 'none'} |"
            assert row in README


def test_the_counterexample_that_it_shows_is_the_one_that_the_tests_expect():
    (shown,) = re.findall(r"```text\n(mean: .*?)```", README, re.DOTALL)
    assert shown in (ROOT / "tests" / "test_cli.py").read_text().replace("\\\\", "\\")


def test_its_table_of_chapters_is_the_catalogue():
    for chapter in CHAPTERS:
        name = chapter.__name__.rpartition(".")[2]
        rules = ", ".join(f"`{rule}`" for rule in CATALOGUE.values() if rule.chapter == name)
        assert f"| {name.replace('_', ' ')} | {rules} |" in README
    assert f"a catalogue of {len(CATALOGUE)} handwritten backward rules" in README


TEXTS = {"en": ("README.md", "## The answer key"), "zh": ("README.zh.md", "## 标准答案")}


def excerpts(lang):
    """Return the excerpts of the answer key: of two documents, of an explanation, and of a trace."""
    name, title = TEXTS[lang]
    section = (ROOT / name).read_text().partition(title)[2].partition("\n## ")[0]
    return re.findall(r"```text\n(.*?)\n```", section, re.DOTALL)


def hold(excerpt, printed):
    """Every part of the excerpt, between its dots, must be there."""
    plain = "\n".join(line.rstrip() for line in printed.splitlines())
    for part in excerpt.split("\n…\n"):
        assert part in plain, f"not printed:\n{part}"


def test_the_excerpts_of_the_documents_are_what_is_printed_in_either_language():
    for k, document in enumerate(("two_layer_network", "linear_model")):
        found = list(settled(document))
        for lang in TEXTS:
            console = Console(width=120, file=io.StringIO())
            for one in found:
                console.print(shown(one, lang), highlight=False)
            around = [summary(document, found, lang), runs_told(document, lang), WORDS[lang]["sound"]]
            hold(excerpts(lang)[k], "\n".join([console.file.getvalue(), *around]))


@pytest.mark.parametrize(("k", "command"), [(2, "explain matmul"), (3, "trace linear_model")])
def test_the_other_excerpts_of_the_answer_key_are_what_the_commands_print(tmp_path, k, command):
    assert excerpts("en")[k] == excerpts("zh")[k]
    done = run(tmp_path, "-m", "backprop_rules", *command.split())
    assert done.returncode == 0, done.stderr
    hold(excerpts("en")[k], done.stdout)


def test_the_chinese_readme_counts_the_same_claims_and_runs():
    count = sum(len(claims(document)) for document in DOCUMENTS)
    chinese = (ROOT / "README.zh.md").read_text()
    assert f"{count} in all" in README
    assert f"共 {count} 条" in chinese
    (program,) = re.findall(r"```python\n(.*?)```", chinese, re.DOTALL)
    exec(compile(program, "README.zh.md", "exec"), {"print": lambda report: None})
