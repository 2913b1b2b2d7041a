"""The programs of the four documents on backpropagation, written anew in terms of the catalogue's rules."""

from backprop_rules.documents import linear_model, matmul_derivatives, one_parameter_regression, two_layer_network
from backprop_rules.documents.program import Program

PROGRAMS: dict[str, Program] = {
    program.name: program
    for module in (linear_model, one_parameter_regression, two_layer_network, matmul_derivatives)
    for program in module.PROGRAMS
}

__all__ = ["PROGRAMS", "Program"]
