"""The reward of the rows beside it."""


def early(completion, **_):
    """The share of characters below "P"; 0 for no reply."""
    return sum(letter < "P" for letter in completion) / len(completion) if completion else 0.0
