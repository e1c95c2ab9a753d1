"""The model that is trained, its adapters, its checkpoints. Read `policy` first."""
