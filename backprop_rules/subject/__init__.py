"""From a user's function or module, or a rule, to what is checked."""
