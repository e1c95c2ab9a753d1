"""Versions of a library, in files or in a database. Read `store` first."""
