"""The pytest plugin: a function that is a backward becomes a test, by a mark.

@pytest.mark.backprop_rule("linear", dtypes=["float32"])
def my_linear_backward(grad_y, x, w, b): ...
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # loaded only where a test needs them: pytest starts for other projects as well
    from backprop_rules.report.report import Report

MARK = "backprop_rule"
FOUND = pytest.StashKey[dict[str, Any]]()
ACCURACY = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup(
        "backprop-rules", "backward functions held against the definitions of what they differentiate"
    )
    group.addoption("--backprop-device", action="append", metavar="DEVICE", help="only this device; may be repeated")
    group.addoption("--backprop-dtype", action="append", metavar="DTYPE", help="only this dtype; may be repeated")
    group.addoption("--backprop-framework", metavar="NAME", help="what arrays the functions take: torch, numpy or jax")
    group.addoption("--backprop-max-examples", type=int, metavar="N", help="points drawn for each backward and tier")
    group.addoption("--backprop-seed", type=int, metavar="N", help="equal seeds draw equal points")
    group.addoption("--backprop-report", metavar="FILE", help="write all reports to this file, as JSON")
    group.addoption(
        "--backprop-target", metavar="MODULE", help="the module of backward functions, for the conformance suite"
    )
    group.addoption(
        "--backprop-accuracy-save", metavar="FILE", help="write how much of its allowance each gradient used, as JSON"
    )
    group.addoption(
        "--backprop-accuracy-compare", metavar="FILE", help="show which gradients use more of it than in this file"
    )
    group.addoption("--backprop-xfails-file", metavar="FILE", help="names of rules that are known to fail, a line each")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark, and see early that the report can be written."""
    what = "this function is a backward; check it, with the options of backprop_rules.check"
    config.addinivalue_line("markers", f"{MARK}(rule, **options): {what}")
    for option in ("--backprop-report", "--backprop-accuracy-save"):
        path = config.getoption(option)
        if path and not Path(path).absolute().parent.is_dir():
            raise pytest.UsageError(f"{option}: there is no folder {Path(path).absolute().parent}")
        if path and Path(path).is_dir():
            raise pytest.UsageError(f"{option}: {path} is a folder; name a file")
    if hasattr(config, "workerinput"):  # of several processes, the first writes
        return
    path = config.getoption("--backprop-report")
    save, compare = (config.getoption(f"--backprop-accuracy-{what}") for what in ("save", "compare"))
    if path or save or compare:
        collected = _Collected(path and Path(path), save and Path(save), _read(compare))
        config.pluginmanager.register(collected, "backprop-rules-collected")


def _read(path: str | None) -> dict[str, dict[str, float]] | None:
    """Return saved accuracies, by test and gradient."""
    if path is None:
        return None
    try:
        found: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise pytest.UsageError(f"--backprop-accuracy-compare: {path} cannot be read: {error}") from error
    entries = found.values() if isinstance(found, dict) else [found]
    if not all(isinstance(one, dict) and isinstance(one.get("used"), int | float) for one in entries):
        raise pytest.UsageError(f"--backprop-accuracy-compare: {path} was not written by --backprop-accuracy-save")
    return dict(found)


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> "list[pytest.Item] | None":
    """Collect a marked function, whatever its name: a test for each of its marks."""
    found = obj if name == "pytestmark" else getattr(obj, "pytestmark", [])
    found = [getattr(mark, "mark", mark) for mark in (found if isinstance(found, list | tuple) else [found])]
    marks = [mark for mark in found if getattr(mark, "name", None) == MARK]
    if not marks:
        return None
    others = {mark.name for mark in found} & {"parametrize", "usefixtures"}
    if not callable(obj) or not isinstance(collector, pytest.Module) or others or name == "pytestmark":
        where = f"which {others.pop()} does not go with" if others else "which is in a class"
        where = "which is on all that is here" if name == "pytestmark" else where
        raise collector.CollectError(
            f"{MARK} marks functions of a module; {name}, {where}, would not be checked: make it a function of its "
            "own, with what varies in the mark, as in params={'dim': 1}"
        )
    items: list[pytest.Item] = []
    for k, mark in enumerate(marks):
        own = name if len(marks) == 1 else f"{name}[{(*mark.args, k)[0]}]"
        items.append(BackwardItem.from_parent(collector, name=own, backward=obj, mark=mark))
        items[-1].own_markers += found
        items[-1].keywords.update({other.name: other for other in found})
    return items


class BackwardItem(pytest.Item):
    """The test of one backward."""

    def __init__(self, *, backward: Any, mark: pytest.Mark, **named: Any) -> None:
        super().__init__(**named)
        self.backward, self.mark = backward, mark

    def runtest(self) -> None:
        """Check the backward."""
        from backprop_rules.errors import InputError

        try:
            report = checked(self.config, self.backward, *self.mark.args, **self.mark.kwargs)
        except (InputError, TypeError) as error:
            pytest.fail(f"{self.name}: {error}", pytrace=False)
        told(self, report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the report, and no traceback through the checker."""
        if isinstance(excinfo.value, pytest.fail.Exception):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Say where the function is."""
        code = getattr(self.backward, "__code__", None)
        return self.path, None if code is None else code.co_firstlineno - 1, self.name


class Failed(pytest.fail.Exception, AssertionError):  # type: ignore[misc, name-defined]
    """A backward that is not right; the text is the report, shown without a traceback."""

    __module__ = "builtins"  # as pytest's own, so that the summary has room for what was found

    def __init__(self, report: "Report") -> None:
        super().__init__(_headed(report), False)
        self.report = report


def checked(config: pytest.Config, backward: Any, rule: Any = None, **options: Any) -> "Report":
    """Return the report on a backward, the command line's options before those of the mark."""
    from backprop_rules.checking import check

    names = {"dtype": "dtypes", "device": "devices", "max-examples": "max_examples"}
    for option, name in {**names, "seed": "seed", "framework": "framework"}.items():
        value = config.getoption(f"--backprop-{option}")
        if value is not None:
            options[name] = value
    return check(backward, rule, **{**options, "raise_on_failure": False})


def told(item: pytest.Item, report: "Report") -> None:
    """Put what was found into the item's properties, and fail if there is an objection; an interrupt stays one."""
    if report.interrupted and report.finding is None:
        raise KeyboardInterrupt
    rung = next((name for name in ("proved", "allowed", "witnessed") if report.rungs[name]), "none")
    rung = rung if report.finding is None else report.finding.rung.value
    item.user_properties += [("rule", report.subject.name), ("rung", rung), ("seed", report.seed)]
    item.stash[FOUND] = {"test": item.nodeid, **report.to_dict()}
    if not report.passed:
        raise Failed(report)


def _headed(report: "Report") -> str:
    """Return the report, what was found in the first line, which is all that pytest's summary shows."""
    title, _, rest = str(report).partition("\n")
    told = report.to_dict()
    found, likely = told["finding"], f" ({report.mistake.name})" if report.mistake else ""
    if found is None:
        what = report.why
    elif found["got"] is None:
        what = found["words"]
    else:
        what = f"{found['got']} in the place of {found['expected']}{likely}"
    return f"{title.rstrip('.')}: {what}.\n{rest}"


def _take_asserted(item: pytest.Item) -> None:
    """Put what was asserted of gradients in the item's properties, and along with its report."""
    module = sys.modules.get("backprop_rules.report.agreement")
    told_before = item.stash.setdefault(ACCURACY, [])
    for asserted in [] if module is None else module.ASSERTED:
        number = f" ({len(told_before) + 1})" * bool(told_before)
        told_before.append({f"{name}{number}": figures for name, figures in asserted.items()})
        item.user_properties += [(f"gradient of {name}", figures) for name, figures in told_before[-1].items()]
    if module is not None:
        module.ASSERTED.clear()


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """End the run after a check that was interrupted: what it had found by then is told, as a failure."""
    failed = call.excinfo and call.excinfo.value
    if getattr(getattr(failed, "report", None), "interrupted", False):
        node.session.shouldstop = "a check was interrupted"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterable[None]:
    """Send what was found along with pytest's own report of each phase, from one process of several to the first."""
    _take_asserted(item)  # of fixtures' phases, too, before the next test begins
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if call.when == "call" and FOUND in item.stash:
        report.backprop_found = item.stash[FOUND]
    several = item.stash[ACCURACY]
    report.backprop_accuracy = {f"{item.nodeid} {name}": figures for one in several for name, figures in one.items()}


class _Collected:
    """Writes reports to a file, what came along with pytest's own, and how much of its allowance each gradient used.

    Of the latter it shows which use more than before.
    """

    def __init__(self, path: Path | None, save: Path | None, before: dict[str, dict[str, float]] | None) -> None:
        self.path, self.save, self.before = path, save, before
        self.reports, self.found = list[dict[str, Any]](), dict[str, dict[str, float]]()
        self.ran, self.lost = False, list[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what came along."""
        self.ran |= report.when == "call"
        found = getattr(report, "backprop_found", None)
        if found is not None:
            self.reports.append(found)
        self.found |= getattr(report, "backprop_accuracy", {})

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write all of it, unless no test ran: then what was written before stays, and accuracies if not all ran."""
        from backprop_rules.report.whole import write_whole

        cut_short = exitstatus == pytest.ExitCode.INTERRUPTED or session.shouldfail or session.shouldstop
        for path, collected in ((self.path, self.reports), (self.save, self.found)):
            if path is None or not self.ran:
                continue
            if path is self.save and cut_short:  # later runs would not be compared with what is missing
                self.lost.append(f"{path} is not written: not all tests ran.")
                continue
            try:
                write_whole(path, json.dumps(collected, indent=2) + "\n")
            except OSError as error:
                self.lost.append(f"{path} cannot be written: {error.strerror}. Free the space or name another file.")
                session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell of files that were not written; show which gradients use more of their allowance, the worst first."""
        for text in self.lost:
            terminalreporter.line(f"ERROR: {text}", red=True)
        if self.before is None:
            return
        both = [name for name in self.found if name in self.before]
        times = {name: self.found[name]["used"] / max(self.before[name]["used"], 5e-324) for name in both}
        worse = sorted((name for name in both if times[name] > 1), key=lambda name: -times[name])
        terminalreporter.section("accuracy of gradients")
        for name in worse:
            before, now = (100 * figures[name]["used"] for figures in (self.before, self.found))
            terminalreporter.line(f"{name}: {now:.1f} % of its allowance, {before:.1f} % before")
        kept = len(both) - len(worse)
        terminalreporter.line(
            f"{len(worse)} less accurate than before, {kept} as accurate or more, of {len(self.found)}"
        )
