"""Whether one system is better than another, and how certain that is. Read `comparison` first."""
