"""Points of a rule's domain, drawn in bulk."""
