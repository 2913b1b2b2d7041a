"""How much is asked: numbers that steer effort alone, and decide no verdict, each with its reason."""

# Points that are asked whatever they cost.
LEAST = 3
# Recipes that Hypothesis draws beside the plan, by default. Chosen after one look at all the wrong rules: they need
# none; docs/effort.md repeats that look over seeds.
DRAWN = 12
# Points that are still asked after a wrong one was found: to name a mistake takes several.
AFTER = 6
# Points at which the second witness is asked: the first two of ordinary values that have a gradient other than zero.
SECOND = 2
# Points that passed and are held to the proof and the allowance, in each dtype; the smallest of ordinary values.
CLIMBS = 2
# Elements of these points together, beyond the first: an object is made for each number on the way.
CLIMBED = 160
# Points at which a choice at a kink is looked at output by output, before it is taken for granted.
CHOICES = 3
# Proofs that are asked for at points where torch's own gradient is NaN, as the backward's.
PROOFS = 3
# Evaluations of a smaller point while a counterexample is made small.
SHRINKS = 100
# Calls of torch's functions that all points together may take: four times what fifty points of an LSTM cell do.
WORK = 20_000
# Calls that the search for a smaller point may take.
SHRINKING = 6_000
# Elements of a point up to which thresholds in the backward's own code are hunted: each halving is one call.
JUMPS = 4096
