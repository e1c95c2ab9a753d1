"""Learning in weights; not in this version."""
