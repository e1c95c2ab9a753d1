"""Whether one system is better than another, and how sure that is. Read `comparison` first."""
