"""A reward model of graphs, and the proposals it makes. Read `gaussian_process` first."""
