"""What becomes of a user's work when things go wrong."""
