"""Events of a run, and the observers that receive them. Read `events` first."""
