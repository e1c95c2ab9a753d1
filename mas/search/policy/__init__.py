"""Searchers that learn a policy over graphs, HRPO among them. Read `hrpo` first."""
