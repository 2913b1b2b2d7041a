"""What is told of a check: text, JSON, HTML; the cases that are saved; progress."""
