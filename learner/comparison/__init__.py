"""Methods of learning compared on the same rows, seeds and budget. Read `lineup` first."""
