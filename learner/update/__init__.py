"""Gradient steps on groups of rollouts, demonstrations or pairs. Read `gradient_step` first."""
