"""Helpers that know nothing of Edgewise: files, hashes, seeds, lazy imports, text. Start with any file."""
