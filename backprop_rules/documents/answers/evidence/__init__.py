"""The evidence of the claims: a module for each document, with a function for each claim, of the claim's name."""
