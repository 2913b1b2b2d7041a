"""Wrong rules, one change each from the right one: what the checker must object to, by rule and mistake."""

import planted_arrays
import planted_elementwise

PLANTED = [*planted_elementwise.PLANTED, *planted_arrays.PLANTED]
