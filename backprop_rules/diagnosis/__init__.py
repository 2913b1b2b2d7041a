"""From what was found to the mistake in words: the bank of mistakes, and how one is recognised."""
