"""Lessons from a group of rollouts, written by a model. Read `distiller` first."""
