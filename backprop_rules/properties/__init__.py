"""What is asked of a gradient at a point, and what is found there."""
