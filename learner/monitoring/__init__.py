"""Monitoring of training: collapse, step time, budget, retention of a library's gain. Read `collapse` first."""
