"""The worth of a node or an edge. Read `reward` first."""
