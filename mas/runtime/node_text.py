"""
Text that goes into a node and comes out of it: prompts, the contracts of replies, votes.

Exported modules carry copies of these definitions (see `mas.deploy.export_writer`), so this file imports nothing but
the standard library and `toolkit.util.extract`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from edgewise.toolkit.util.extract import extract_code

PROGRAM_SECONDS = 10.0
MAX_SHOWN = 8000
"""Most characters of an output that another node receives."""

INPUTS_TITLE = "What others found"
LESSONS_TITLE = "Lessons from earlier tasks"
INSTRUCTION_TITLE = "Your part"
DEFAULT_INSTRUCTION = "Now answer the task above, in the form that it asks for."
PROGRAM_FAILED = "The program did not work:\n{problem}\nWrite the whole program again, corrected."
NO_PROGRAM = "there is no program in a ``` block"
NO_ANSWER = "no answer was heard"
TURNS_USED_UP = "its turns were used up by calls of tools"

VERDICT = re.compile(r"\bverdict\W+(accept|revise)\b", re.IGNORECASE)
RESULT = re.compile(r"^[\s*_#>]*result[*_]*:[*_]*", re.IGNORECASE | re.MULTILINE)
LIST_ITEM = re.compile(r"^\s*(?:\d+[.)]|[-*])\s+\S", re.MULTILINE)


def write_prompt(task: str, inputs: Sequence[tuple[str, str]], lessons: Sequence[str], instruction: str | None) -> str:
    """
    Return the task, followed by what a node receives (names and texts), its lessons and its instruction.

        What is six by seven?

        # What others found
        ## planner
        ...
        # Your part
        ...

    A node without inputs, lessons and instruction is asked the task as it stands.
    """
    # Everything stands behind the task. There it has the last word, where small models follow the task's own wish for
    # a short answer; and all nodes of a graph share the beginning of their prompt, which providers cache.
    sections = {
        INPUTS_TITLE: "\n\n".join(f"## {node}\n{shorten(text)}" for node, text in inputs),
        LESSONS_TITLE: "\n".join(f"- {lesson}" for lesson in lessons),
        INSTRUCTION_TITLE: instruction or (DEFAULT_INSTRUCTION if inputs else ""),
    }
    return "\n\n".join([task, *(f"# {title}\n\n{text}" for title, text in sections.items() if text)])


def shorten(text: str) -> str:
    """Return both ends of a long text: a program may print thousands of lines, a model may repeat itself."""
    half = MAX_SHOWN // 2
    return text if len(text) <= MAX_SHOWN else f"{text[:half]}\n[...]\n{text[-half:]}"


class ReplyCheck(NamedTuple):
    """A reply held to its contract: its verdict, the result that it marks, and what is wrong ("" for nothing)."""

    accepts: bool | None
    result: str
    problem: str


def check_reply(text: str, gives: str, is_marked: bool) -> ReplyCheck:
    """Check a reply against what its role gives. A marked reply must have its answer behind `RESULT:`."""
    accepts, result, problem = None, "", ""
    # The last one counts in both cases: a model may name both verdicts, or correct a result, before it decides.
    if gives == "verdict" and (verdicts := VERDICT.findall(text)):
        accepts = verdicts[-1].lower() == "accept"
    if is_marked and len(parts := RESULT.split(text)) > 1:
        result = parts[-1].strip()

    if not text:
        problem = "the reply is empty"
    elif is_marked and not result:
        problem = "there is no line RESULT: with an answer"
    elif gives == "verdict" and accepts is None:
        problem = "there is no line VERDICT: ACCEPT or VERDICT: REVISE"
    elif gives == "parts" and not LIST_ITEM.search(text):
        problem = "there is no list"
    return ReplyCheck(accepts, result, problem)


def choose_by_vote(answers: Sequence[str], weights: Sequence[float]) -> str:
    """Return the answer with the most weight; among equals the first."""
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        votes[normalize_answer(answer)] = votes.get(normalize_answer(answer), 0.0) + weight
    best = max(votes, key=lambda key: votes[key])
    return next(answer for answer in answers if normalize_answer(answer) == best)


def normalize_answer(text: str) -> str:
    """
    Return what two answers must share to count as one: the last line, without case, spaces and marks at its ends.

    Of an answer that ends in a code block of several lines it is the whole block.
    """
    # Models write the same answer as `**42**.`, `42` or a sentence that ends in it on a line of its own.
    text = text.strip()
    if text.endswith("```"):
        text = "\n".join(line.rstrip() for line in extract_code(text).strip().splitlines())
        # A block of one line is read like a line of prose; an opening fence without an end is no block.
        if "\n" in text and "```" not in text:
            return text
    lines = [re.sub(r"\s+", " ", line).strip(" .*`\"'") for line in text.splitlines()]
    return next((line.casefold() for line in reversed(lines) if line), "")
