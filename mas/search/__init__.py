"""Searchers over agent graphs. Read `registry` first."""
