"""Your own reward: any function of the answer and the target. The distiller receives the text beside the number."""

import re


def grade(answer: str, target: str) -> tuple[float, str]:
    """Return 1 for the bare number with a dot and two decimals, 0.5 for the right number in another form, else 0."""
    if answer.strip() == target:
        return 1.0, "right"
    digits = re.sub(r"\D", "", answer)
    if digits == target.replace(".", ""):
        return 0.5, "the amount is right, but write it as a bare number such as 1250.00"
    return 0.0, f"the amount is {target}"
