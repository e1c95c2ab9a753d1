"""A method of learning and its parts: advantages, losses, penalties, weights. Read `method` first."""
