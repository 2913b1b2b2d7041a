"""How much is asked: numbers that steer effort alone, and decide no verdict, each with its reason.

Where the reason is a need, docs/effort.md has the figures: what the wrong rules of one half need, and that more of
everything changes no verdict on the other half.
"""

# Points that are asked whatever they cost: the example, and other values of its sizes.
LEAST = 3
# Recipes that are drawn beside the plan, by default: as many as half of the rules take that show in one kind of
# planned point alone, were that kind not planned.
DRAWN = 12
# Points that are still asked after a wrong one was found, to name the mistake: more than the need, which is none.
AFTER = 2
# The same of a rule of the catalogue, whose points are of many shapes: the need of the bank.
AFTER_OF_A_RULE = 12
# Points at which the second witness is asked: the first two of ordinary values that have a gradient other than zero.
SECOND = 2
# Points that passed and are held to the proof and the allowance, in each dtype; the smallest of ordinary values.
CLIMBS = 2
# Elements of these points together, beyond the first: an object is made for each number on the way.
CLIMBED = 160
# Points at which a choice at a kink is looked at output by output, before it is taken for granted.
CHOICES = 3
# Points of a rule of the catalogue, half of them on a grid on which nothing rounds: of the tests' 118 wrong rules, from
# two seeds each, all but two are found out at these, all at four times as many.
POINTS_OF_A_RULE = 100
# Of the others, those at which its properties are asked in ball arithmetic too.
PROOFS_OF_A_RULE = 16
# Proofs that are asked for at points where torch's own gradient is NaN, as the backward's.
PROOFS = 3
# Evaluations of a smaller point while a counterexample is made small: the need.
SHRINKS = 170
# The same for a property of a rule, whose points are of many axes.
SHRINKS_OF_A_RULE = 600
# Calls of torch's functions that all points together may take: the need of all but large weights, whose first points
# are asked in any case.
WORK = 20_000
# Calls that the search for a smaller point may take: ten times what half of the runs need. A few take up to three
# times as many, for plainer values of the same sizes, and a check of an LSTM then takes longer than all its points do.
SHRINKING = 6_000
# Elements of a point up to which thresholds in the backward's own code are hunted, and edges of forward's domain: each
# halving is one call.
JUMPS = 4096
# Rounds in which two threads call a backward at the same time.
AT_ONCE = 2
# Arguments in which one number is changed, to see that a result is not that of another one.
CHANGED = 4
# Sets of primals that require no gradient: all of up to five primals, the small ones of more.
ALONE = 30
