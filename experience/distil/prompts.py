"""
Prompts of the distiller. Fixed text comes first in each, the part that changes last, so that providers cache prefixes.

Stages and their inputs follow Training-Free GRPO (arXiv 2510.08191): a summary of each rollout, a comparison of the
rollouts of one group that sees the library, and one update of the library for the whole batch.
"""

# Runs are resumed and replayed by their prompts: a change of a single character makes recorded replies useless.

from typing import Any


def _object(**properties: Any) -> dict[str, Any]:
    """Return the JSON schema of an object with these properties alone: strict schemas require all of them."""
    names = list(properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


OPERATION = _object(
    action={"type": "string", "enum": ["add", "modify", "delete", "keep"]},
    id={"type": ["string", "null"]},
    kind={"type": "string", "enum": ["content", "form"]},
    text={"type": "string"},
)
OPERATIONS = _object(operations={"type": "array", "items": OPERATION})

ACTIONS = """\
Answer with JSON only: {"operations": [{"action": ..., "id": ..., "kind": ..., "text": ...}]}
- action "add": a new lesson (id null). "modify": better text for the lesson with that id, such as "G0". \
"delete": drop the lesson with that id (text ""). "keep": leave the lesson with that id as it is (text "").
- kind "content": what to do. kind "form": how the answer must be written.
"""

SUMMARY = """\
You study how an assistant works on tasks. Summarise one attempt in at most {words} words: what it did step by \
step, which facts or rules it relied on, and where it went right or wrong. No advice yet.
"""

COMPARE = """\
You compare several attempts at the same task and write lessons that will help with other tasks of the same kind.
Say what separates the attempts that won from those that lost. A lesson names a condition that can be seen in the \
task and says exactly what to do then. It must be general: never mention this task's names, numbers or attempts.
Propose at most {operations} operations; each lesson has at most {words} words. Propose nothing that the current \
lessons already say; mend or delete a current lesson that misled an attempt.
"""

UPDATE = """\
You keep a short list of lessons in order. You are given the current lessons and the operations that several \
comparisons proposed. Decide the final operations: fuse proposals that say the same, settle contradictions, drop \
what is not general, delete lessons shown to be wrong. Each lesson has at most {words} words.
"""

DIRECT = """\
Write lessons that would help an assistant with tasks of the kind shown below. At most {operations} operations, \
all of them "add"; each lesson has at most {words} words.
"""

UNREADABLE = "That could not be read: {problem}. Answer again with the JSON only."
