"""The properties that every rule must have: one test each, over the whole catalogue."""

import pytest

from backprop_rules import CATALOGUE
from backprop_rules.properties import of_rules as properties

every_rule = pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)


@every_rule
def test_agrees_with_every_oracle(rule, hold):
    hold(rule, properties.agrees_with_every_oracle)


@every_rule
def test_is_linear_in_the_cotangent(rule, hold):
    hold(rule, properties.is_linear_in_the_cotangent)


@every_rule
def test_is_the_adjoint_of_the_forward_mode_derivative(rule, hold):
    hold(rule, properties.is_the_adjoint_of_forward_mode)


@every_rule
def test_reads_only_what_it_saves(rule, hold):
    hold(rule, properties.reads_only_what_it_saves)


@every_rule
def test_returns_the_shape_dtype_and_device_of_each_primal(rule, hold):
    hold(rule, properties.returns_the_shape_dtype_and_device_of_each_primal, meta=True)


@every_rule
def test_writes_to_none_of_its_arguments(rule, hold):
    hold(rule, properties.writes_to_none_of_its_arguments)


@every_rule
def test_gives_the_same_bits_twice(rule, hold):
    hold(rule, properties.gives_the_same_bits_twice)


@every_rule
def test_gives_the_same_result_whatever_the_strides(rule, hold):
    hold(rule, properties.gives_the_same_whatever_the_strides)


@every_rule
def test_treats_empty_and_0d_tensors(rule, hold):
    hold(rule, *properties.PROPERTIES, sides=(1, 0), meta=True)


@every_rule
def test_is_batched_by_vmap_as_by_a_loop(rule, hold):
    hold(rule, properties.is_batched_by_vmap_as_by_a_loop)


@every_rule
def test_is_itself_differentiable_to_the_right_second_derivative(rule, hold):
    hold(rule, properties.has_the_right_second_derivative)


@every_rule
def test_lets_nan_and_inf_of_the_cotangent_reach_only_what_they_influence(rule, hold):
    hold(rule, properties.lets_nan_and_inf_reach_only_what_they_influence)


@every_rule
def test_has_a_forward_that_computes_its_definition(rule, hold):
    hold(rule, properties.computes_its_definition)
