"""The bridges to other frameworks: NumPy and JAX functions called with tensors, and followed."""
