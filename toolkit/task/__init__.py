"""A task: its rows, its splits, its prompt and its reward. Read `task` first."""
