"""The reference oracle for people who write their own backward: one function, and the report that it returns."""

from backprop_rules.checker.question import Asked
from backprop_rules.checker.report import CheckFailed, Report
from backprop_rules.checker.run import check, check_function

__all__ = ["Asked", "CheckFailed", "Report", "check", "check_function"]
