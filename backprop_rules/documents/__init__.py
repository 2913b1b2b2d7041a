"""The programs of the four documents on backpropagation, their replays, and the answers to the documents' claims."""

from backprop_rules.documents.program import Program
from backprop_rules.documents.programs import PROGRAMS

__all__ = ["PROGRAMS", "Program"]
