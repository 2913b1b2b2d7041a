"""The README is short, the pages can be reached, their links lead somewhere, and docs/findings.md says what is so."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, ROOT / "examples" / "README.md"]
FINDINGS = (ROOT / "docs" / "findings.md").read_text()

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page):
    """Return the page without its blocks, and what it holds within backquotes as x."""
    return re.sub(r"`[^`\n]+`", "x", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE))


def links(page):
    """Return the relative links of a page: the file, and the anchor, either of which may be empty."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link.partition("#")[::2] for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_a_readme_has_at_most_200_lines(name):
    assert len((ROOT / name).read_text().splitlines()) <= 200


@every_page
def test_every_link_leads_to_a_file_and_a_heading(page):
    for name, anchor in links(page):
        target = page.parent / name if name else page
        assert target.is_file(), f"{name} is no file"
        assert not anchor or anchor in anchors(target), f"{name} has no heading {anchor}"


def test_the_readmes_lead_to_every_page():
    for page in DOCS:
        readme = "README.zh.md" if page.name.endswith(".zh.md") else "README.md"
        assert (f"docs/{page.name}", "") in links(ROOT / readme)


def test_the_chinese_readme_has_the_same_sections_links_and_commands():
    english, chinese = (ROOT / name for name in ("README.md", "README.zh.md"))
    leads = [[(name.replace(".zh.md", ".md"), anchor) for name, anchor in links(page)] for page in (english, chinese)]
    assert leads[0] == leads[1]
    texts = [page.read_text() for page in (english, chinese)]
    assert len({len(re.findall(r"^## ", text, re.MULTILINE)) for text in texts}) == 1
    commands = [re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) for text in texts]
    told = [[re.sub(r" *#.*| --lang zh", "", command) for command in found] for found in commands]
    assert told[0] == told[1]


def test_the_readme_has_the_commands_that_the_ci_runs():
    commands = re.findall(r"^ *(python -m pip install .*&&.*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert f"\n{command}\n" in (ROOT / "README.md").read_text()


PROGRAMS = [
    (text.rpartition("\n### ")[2].partition("\n")[0], block)
    for text, block in pairwise(re.split(r"^```(?:python)?\n", FINDINGS, flags=re.MULTILINE))
][::2]
# Runs the programs one after another, each after the first, and tells what each prints.
EACH = """
import contextlib, io, json, sys
first, *others = json.loads(sys.argv[1])
exec(first)
told = []
for other in others:
    names, out = dict(globals()), io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(other, names)
    told.append(out.getvalue())
print(json.dumps(told))
"""


def printed_in_comments(block):
    return "".join(line.removeprefix("# ") + "\n" for line in block.splitlines() if line.startswith("# "))


def to_twelve_digits(text):
    """Return the text with every number to twelve digits: the last ones are the machine's."""
    return re.sub(r"\d+\.\d+(e[+-]?\d+)?", lambda number: f"{float(number[0]):.12g}", text)


@pytest.mark.xdist_group("processes")
@pytest.mark.skipif(
    torch.__version__.partition("+")[0] not in FINDINGS, reason="docs/findings.md is about another version of torch"
)
def test_the_programs_of_the_findings_print_what_stands_behind_them(torch_alone):
    assert len(PROGRAMS) == FINDINGS.count("```python\n")
    done = torch_alone.run("-c", EACH, json.dumps([block for _, block in PROGRAMS]))
    assert done.returncode == 0, done.stderr
    for (title, block), told in zip(PROGRAMS[1:], json.loads(done.stdout), strict=True):
        assert to_twelve_digits(told) == to_twelve_digits(printed_in_comments(block)), title
