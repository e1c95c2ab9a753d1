"""Candidates for the next library. Read `candidates` first."""
