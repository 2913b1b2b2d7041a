"""Evidence of the claims of `linear_model`: a network of weights alone, and y = xω as PyTorch computes and trains it.

The document's program is run as it stands, in float32; what is to be exact is computed in whole numbers or fractions.
"""
