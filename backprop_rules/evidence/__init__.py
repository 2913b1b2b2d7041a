"""What is known of one point, on each rung of the ladder: witnesses, allowances, proofs."""
