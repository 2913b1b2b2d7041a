"""A conformance suite for a whole implementation: `pytest --pyargs backprop_rules.conformance --backprop-target M`."""
