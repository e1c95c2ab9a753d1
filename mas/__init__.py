"""Learning in wiring; not in this version."""
