"""What the README and the pages that it leads to say is so."""

import io
import re
from functools import partial
from pathlib import Path

import pytest
from grouped import of_document
from plugin_words import LOADED
from rich.console import Console

from backprop_rules import CATALOGUE
from backprop_rules.catalogue import CHAPTERS
from backprop_rules.documents.answers import DOCUMENTS, claims
from backprop_rules.documents.answers.report import WORDS, runs_told, shown, summary

in_processes = pytest.mark.xdist_group("processes")

ROOT = Path(__file__).parents[1]
README, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
# The pages in English; the programs of docs/findings.md are held in test_pages.py, each after the page's first.
PAGES = [path for path in sorted(ROOT.glob("docs/*.md")) if path.stem != "findings" and path.suffixes != [".zh", ".md"]]
TEXT = "\n".join([README, *(path.read_text() for path in PAGES)])


def fenced(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


BLOCKS = fenced("python", TEXT)
RULES = {re.search(r"def (\w+)\(", block)[1]: block for block in BLOCKS if "@rule" in block}
# What tells each program from the others.
PROGRAMS = {
    "vjp": "import vjp",
    "my_relu": "clamp(min=0)",
    "any function": "torch.exp(x) @ w",
    "a module": "torch.nn.Linear(4, 3)",
    "MyExp": "class MyExp",
    "in the place of gradcheck": "torch.tanh(x @ w)",
    "pytest": "import pytest",
    "trace": "import CATALOGUE, pictures, trace",
    "a kernel": "def my_kernel",
}


@pytest.fixture
def run(all_loaded, tmp_path):
    return partial(all_loaded.run, cwd=tmp_path, path=(tmp_path, ROOT))


def hold(excerpt, printed):
    """Every part of the excerpt, between its dots, must be there."""
    plain = "\n".join(line.rstrip() for line in printed.splitlines())
    for part in excerpt.split("\n…\n"):
        assert part in plain, f"not printed:\n{part}"


def one(blocks):
    (block,) = blocks
    return block


def program(name):
    return one(block for block in BLOCKS if "@rule" not in block and PROGRAMS[name] in block)


def test_every_program_is_a_rule_or_one_of_those_that_are_run():
    assert set(RULES) == {"cube", "softsign", "times_square"}
    assert sorted(BLOCKS) == sorted([*RULES.values(), *map(program, PROGRAMS)])


@in_processes
@pytest.mark.parametrize("name", RULES)
def test_the_rules_that_it_shows_are_right(run, tmp_path, name):
    (tmp_path / "my_rules.py").write_text(RULES[name])
    done = run("-m", "backprop_rules", "verify", "--import", "my_rules", name, "--examples", "50")
    assert done.returncode == 0, done.stdout + done.stderr


@in_processes
def test_the_wrong_cube_is_found_out_as_it_says(run, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULES["cube"].replace("3 * x * x", "2 * x * x"))
    done = run("-m", "backprop_rules", "verify", "--import", "my_rules", "cube", "--examples", "50")
    assert done.returncode == 1
    assert "expected  from 2.999999999999999 to 3.0000000000000004\n    got       2.0\n" in done.stdout
    assert "x = torch.tensor(1.0, dtype=torch.float64)\n    grad_y = torch.tensor(1.0" in done.stdout


def of_verify(printed):
    """Return the table without its times, and with letters for what may differ from one torch to the next."""
    lines = [re.sub(r"( +\d+\.\d+ s| +time)? *$", "", line) for line in printed.splitlines()]
    return [re.sub(r" +", " ", re.sub(r"\d+%|(?<=outside at )\d+", "n", line)) for line in lines if ":" not in line]


@in_processes
@pytest.mark.parametrize("words", ["--import my_rules cube", "exp clamp sigmoid matmul"])
def test_the_tables_of_verify_are_what_it_prints(run, tmp_path, words):
    (tmp_path / "my_rules.py").write_text(RULES["cube"])
    done = run("-m", "backprop_rules", "verify", *words.split())
    table = one(b for b in fenced("text", TEXT) if b.startswith("rule ") and f"\n{words.split()[-1]} " in b)
    assert of_verify(table) == of_verify(done.stdout), done.stderr


@in_processes
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_that_it_shows_run(run, tmp_path, name):
    (tmp_path / "test_program.py").write_text(program(name))
    if name == "pytest":
        done = run("-m", "pytest", "-q", *LOADED, "test_program.py")
        assert "1 passed" in done.stdout, done.stdout
        return
    done = run("test_program.py")
    if name == "a kernel":
        shown = one(b for b in fenced("text", README) if b.startswith("The gradient of x is wrong"))
        figures = partial(re.sub, r"-?\d+(\.\d+)?(e[+-]\d+)?", "n")  # which differ from one CPU to the next
        hold(figures(shown), figures(done.stderr))
        return
    assert done.returncode == 0, done.stderr
    if name == "my_relu":
        report = one(b for b in fenced("text", README) if b.startswith("relu: "))
        assert done.stdout.rpartition(" proved")[0] == report.rpartition(" proved")[0]
    if name == "MyExp":
        assert done.stdout == "right\n"


def test_its_table_of_kinks_is_the_declared_one():
    for rule in CATALOGUE.values():
        for c in rule.conventions:
            row = f"| `{rule}` | {c.at} | {c.value} | {c.torch or 'none'} | {c.torch_forward or 'none'} |"
            assert row in TEXT


def test_the_counterexample_that_it_shows_is_the_one_that_the_tests_expect():
    counterexample = one(b for b in fenced("text", TEXT) if b.startswith("mean: "))
    assert counterexample in (ROOT / "tests" / "test_cli.py").read_text().replace("\\\\", "\\")


def test_its_table_of_chapters_is_the_catalogue():
    for chapter in CHAPTERS:
        name = chapter.__name__.rpartition(".")[2]
        rules = ", ".join(f"`{rule}`" for rule in CATALOGUE.values() if rule.chapter == name)
        row = f"| {name.replace('_', ' ')} | {rules} |"
        assert row in TEXT, f"docs/catalogue.md lacks the row {row}"
    for words, text in (
        (f"a catalogue of {len(CATALOGUE)} handwritten", README),
        (f"{len(CATALOGUE)} 条手写", CHINESE),
    ):
        assert words in text, f"README.md, or README.zh.md, is to say '{words}'"


KEYS = {"en": ("## The answer key", README, "answer_key.md"), "zh": ("## 标准答案", CHINESE, "answer_key.zh.md")}


def excerpts(lang):
    """Return the excerpts of the answer key: two of a document, one of another's run, an explanation, and a trace."""
    title, readme, page = KEYS[lang]
    section = readme.partition(title)[2].partition("\n## ")[0]
    first, *others = (fenced("text", text) for text in (section, (ROOT / "docs" / page).read_text()))
    found = [block.removesuffix("\n") for block in [*first, *others[0]]]
    assert len(first) == 1 and len(found) == 5
    return found


EXCERPTS = {"two_layer_network": (0, 1), "linear_model": (2,)}


@pytest.mark.parametrize(
    ("document", "those"), [pytest.param(name, those, marks=of_document(name)) for name, those in EXCERPTS.items()]
)
def test_the_excerpts_of_the_documents_are_what_is_printed_in_either_language(settled, document, those):
    found = settled(document)
    for lang in KEYS:
        console = Console(width=120, file=io.StringIO())
        for claim in found:
            console.print(shown(claim, lang), highlight=False)
        around = [summary(document, found, lang), runs_told(document, lang), WORDS[lang]["sound"]]
        for k in those:
            hold(excerpts(lang)[k], "\n".join([console.file.getvalue(), *around]))


@in_processes
@pytest.mark.parametrize("lang", KEYS)
@pytest.mark.parametrize(("k", "command"), [(3, "explain softmax"), (4, "trace two_layer_network_as_printed")])
def test_the_other_excerpts_of_the_answer_key_are_what_the_commands_print(run, k, command, lang):
    done = run("-m", "backprop_rules", *command.split(), "--lang", lang)
    assert done.returncode == 0, done.stderr
    hold(excerpts(lang)[k], done.stdout)


def test_the_chinese_readme_counts_the_same_claims_and_runs():
    count = sum(len(claims(document)) for document in DOCUMENTS)
    assert f"{count} in all" in README
    assert f"共 {count} 条" in CHINESE
    assert fenced("text", CHINESE)[:2] == fenced("text", README)[:2]
    own = one(block for block in fenced("python", CHINESE) if block not in BLOCKS)
    exec(compile(own, "README.zh.md", "exec"), {"print": lambda report: None})
