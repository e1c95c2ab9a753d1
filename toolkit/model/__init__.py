"""Calls of language models, by name. Read `client` first."""
