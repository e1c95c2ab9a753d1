"""The training loop of weights: sample, update, checkpoint. Read `loop` first."""
