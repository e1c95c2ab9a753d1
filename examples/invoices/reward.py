"""A reward of one's own: any function of the answer and the target. Text beside the number reaches the distiller."""

import re


def grade(answer: str, target: str) -> tuple[float, str]:
    """Full marks for the bare number with a dot and two decimals, half for the right number in other words."""
    if answer.strip() == target:
        return 1.0, "right"
    digits = re.sub(r"\D", "", answer)
    if digits == target.replace(".", ""):
        return 0.5, "the amount is right, but write it as a bare number such as 1250.00"
    return 0.0, f"the amount is {target}"
