"""The answer key of the documents: each of their claims, its verdict, and the evidence that is run for it."""

from backprop_rules.documents.answers.claim import DOCUMENTS, Claim, Seen, Verdict, claims
from backprop_rules.teaching.told import LANGUAGES

__all__ = ["DOCUMENTS", "LANGUAGES", "Claim", "Seen", "Verdict", "claims"]
