"""Worlds to act in: two small deterministic ones of ours, and an adapter of TextWorld. See `toolkit.environments.protocol`."""
