"""Points of a rule's domain: in bulk, or drawn by Hypothesis, which only `search` knows."""
