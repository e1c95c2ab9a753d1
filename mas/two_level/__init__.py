"""M-GRPO without weights: a planner and its sub-agents learn a library each. Read `loop` first."""
