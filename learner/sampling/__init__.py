"""Completions sampled from local weights, or from a server that follows them. Read `generate` first."""
