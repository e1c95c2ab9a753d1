"""Environments that an agent acts in: two small deterministic worlds, and TextWorld. Read `protocol` first."""
