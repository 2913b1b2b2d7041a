"""What teaches: a trace of every application of a rule, its picture, a rule explained."""
