"""The training loop of an experience library: steps, gate, measurement. Read `loop` first."""
