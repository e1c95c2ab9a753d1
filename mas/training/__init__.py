"""The training loop of a graph search: trials, gate, measurement. Read `loop` first."""
