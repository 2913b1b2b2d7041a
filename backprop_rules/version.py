"""The version of the package, which reports tell even where the package is not installed."""

__version__ = "0.5.0"
