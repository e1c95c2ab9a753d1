"""Designs: from a question to an agent graph. Read `interface` first."""
