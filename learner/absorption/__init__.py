"""A library distilled into weights. Read `api` first."""
