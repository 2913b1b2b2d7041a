"""What makes pytest load the plugin where the package is not installed, as in a checkout on the path."""

from importlib.metadata import entry_points

INSTALLED = any(entry.value == "backprop_rules.pytest_plugin" for entry in entry_points(group="pytest11"))
LOADED = () if INSTALLED else ("-p", "backprop_rules.pytest_plugin")
