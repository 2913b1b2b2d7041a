"""Evidence of the claims of `two_layer_network`: its program, its derivation, and many draws of its numbers."""
