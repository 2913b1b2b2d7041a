"""The answer key of backpropagation: handwritten backward rules, verified without a chosen tolerance."""

from backprop_rules.catalogue import CATALOGUE
from backprop_rules.catalogue.broadcasting import unbroadcast
from backprop_rules.domain import Domain
from backprop_rules.errors import InputError
from backprop_rules.point import vjp
from backprop_rules.rule import Convention, Rule, find, rule

__all__ = ["CATALOGUE", "Convention", "Domain", "InputError", "Rule", "find", "rule", "unbroadcast", "vjp"]
__version__ = "0.2.0"
