"""Improve a language model by experience, graph or weights from the same rows, reward and budget."""
