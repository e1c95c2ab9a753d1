"""Searchers in which a model writes the graphs. Read `graph_writer` first."""
