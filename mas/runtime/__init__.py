"""Execution of an agent graph. Read `graph_run` first."""
