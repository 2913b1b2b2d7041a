"""Wrong rules that people published, by operation and the place where each was reported."""

import published_arrays
import published_elementwise

MISTAKES = [*published_arrays.MISTAKES, *published_elementwise.MISTAKES]
