"""Ball arithmetic: derivatives of a definition, each with a proof of its error."""
