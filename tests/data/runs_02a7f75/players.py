"""What plays the models of these runs. It imports nothing of the package, and keeps count in a file, `asked`."""

import json
import re

COLOURS = ("red", "green", "blue")


def colours(request):
    """A guess by the seed until a lesson tells the colour; as distiller, what the reference answer says."""
    text = _asked(request)
    thing, truth = re.search(r"a (\w+)\?", text), re.search(r"# Reference answer\n(\w+)", text)
    if request.schema is None:
        known = thing and re.search(rf"A {thing[1]} is (\w+)", text)
        return known[1] if known else COLOURS[(request.sampling.seed or 0) % 3]
    said = [f"A {thing[1]} is {truth[1]}"] if thing and truth else []
    added = [{"action": "add", "id": None, "kind": "content", "text": text} for text in said]
    return json.dumps({"operations": added})


def sums(request):
    """A sum only where it is told to calculate, else a guess; a word only where it is not."""
    text = _asked(request)
    added = re.search(r"(\d+) \+ (\d+)", text)
    if "Calculate" in text:
        return str(int(added[1]) + int(added[2])) if added else "0"
    if added:
        return str((request.sampling.seed or 0) % 50)
    word = re.search(r"Say (\w+)", text)
    return word[1] if word else "?"


def numbers(request):
    """The last word, in brackets where it is told to."""
    text = _asked(request)
    return f"<{text.split()[-1]}>" if "brackets" in text else text.split()[-1]


def _asked(request):
    with open("asked", "a") as count:
        count.write(".")
    return "\n".join(message.content for message in request.messages)
