"""The answer key of the documents: each of their claims, its verdict, and the evidence that is run for it."""

from backprop_rules.documents.answers.claim import DOCUMENTS, LANGUAGES, Claim, Seen, Verdict, claims

__all__ = ["DOCUMENTS", "LANGUAGES", "Claim", "Seen", "Verdict", "claims"]
