"""Helpers that know nothing of Edgewise: files, seeds, lazy imports, names in text. Read any of them first."""
