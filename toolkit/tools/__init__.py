"""Tools that a model may call. Read `tool` first."""
