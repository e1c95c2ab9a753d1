"""
Distil tasks whose right answers recur (routing, classification): what the inputs of one answer have in common.

A weak model writes false lessons when it must explain one group in a sentence, and true ones when it only has to
name things. So Training-Free GRPO's question is asked in a form that such a model can answer: the groups of one right
answer are compared together, and the lesson names what their inputs have in common: "topics -> answer". Several
libraries are drawn, each from other groups.

Both questions are few-shot: a model of 1.5B parameters does not follow the bare instruction.
"""

import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgewise.experience.distil.distiller import MAX_VERBATIM_WORDS, Comparison, Distiller, merge_origins
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Example, Group, Message, Plan, Reply
from edgewise.toolkit.util.seeds import derive_seed

ARROW = " -> "
MAX_ITEMS = 6
"""Topics that one lesson is joined from."""
MAX_LINE_TOKENS = 32

CONDITION = """\
You say in 3 to 8 words what an input asks for or what is wrong, without names, numbers or small details."""
CONDITION_SHOTS = (
    ("A train leaves at 9:10 and travels 120 km at 80 km/h. When does it arrive?", "arrival time of a train"),
    ("My tooth hurts whenever I drink something cold, and the gum is swollen.", "tooth pain and swollen gum"),
    ("The bus was full again and drove past our stop without opening the doors.", "bus did not stop"),
    ("We would like to sit outside with the dog if that is allowed on Sundays.", "table outside with a dog"),
)
JOIN = """\
What do all inputs of the list have in common? Answer with a short general name for it, then the most typical cases in \
brackets."""
JOIN_SHOTS = (
    (
        "- The bus was full again and drove past our stop without opening the doors.\n"
        "- Is the 9:10 train to the coast cancelled because of the snow?\n"
        "- My tram ticket was not accepted although it is valid until Friday.",
        "problems with public transport (buses, trains, tickets)",
    ),
    (
        "- Add three eighths and one half.\n- Which is larger, 4/7 or 5/9?\n- Write 3/20 as a percentage.",
        "working with fractions (adding, comparing, converting)",
    ),
    (
        "- My tooth hurts whenever I drink something cold.\n"
        "- I have had a fever since yesterday, what should I take?\n"
        "- There is a red rash on my arm after gardening.",
        "signs of illness (pain, fever, rash)",
    ),
)


def has_recurring_answers(examples: Sequence[Example]) -> bool:
    """Return whether right answers recur: short texts, each the answer of three rows or more on average."""
    answers = [example.target for example in examples]
    # Long answers are texts, which "topics -> answer" can't hold; numbers of a computation are no strings.
    are_short = all(isinstance(answer, str) and 0 < len(answer) <= 40 for answer in answers)
    return are_short and len(set(answers)) * 3 <= len(answers)


def propose_topic(distiller: Distiller, task: Task, group: Group) -> Plan[Comparison]:
    """Propose "topic -> answer" for one group: its input, put into a few words where it is long, and its answer."""
    # The fields of the row, without the prompt's fixed text.
    row = group.example
    fields = [name for _, name, _, _ in string.Formatter().parse(task.prompt) if name]
    values = [str(row.metadata[name]) for name in fields if name in row.metadata]
    topic = " ".join(("\n".join(values) or row.messages[-1].content).split())

    if len(topic.split()) > MAX_VERBATIM_WORDS:
        # One call for a long input alone: a short one is its own topic.
        shots = [(f"Input: {text}", condition) for text, condition in CONDITION_SHOTS]
        topic = yield from _request_line(distiller, CONDITION, shots, f"Input: {topic}", row.id)
    rollouts = tuple(rollout.id for rollout in group.rollouts)
    text = f"{topic}{ARROW}{row.target}"
    add = Operation(action="add", text=text, sources=(row.id,), rollouts=rollouts)
    return Comparison((topic,), (add,) if topic else ())


def join_proposals(
    distiller: Distiller, library: Library, proposals: Sequence[Operation], draws: int, seed: int
) -> Plan[list[tuple[Operation, ...]]]:
    """
    Return operations for each of `draws` libraries: one lesson per answer, new or in place of the current one.

    Each lesson names what some of its answer's proposals, and the current lesson's topics, have in common.
    """
    current = {x.text.rpartition(ARROW)[2]: x for x in library.lessons if ARROW in x.text}
    proposals_of: dict[str, list[Operation]] = defaultdict(list)
    for op in proposals:
        proposals_of[op.text.rpartition(ARROW)[2]].append(op)

    def join_answer(answer: str, draw: int) -> Plan[Operation]:
        lesson = current.get(answer)
        topics = [lesson.text.rpartition(ARROW)[0]] if lesson else []
        others = list(dict.fromkeys(op.text.rpartition(ARROW)[0] for op in proposals_of[answer]))
        # A random subset without repetition: each draw sees other groups.
        order = np.random.default_rng(derive_seed(seed, "join", answer, draw)).permutation(len(others))
        topics += [others[i] for i in order[: MAX_ITEMS - len(topics)]]

        question = "\n".join(f"- {topic}" for topic in topics)
        line = yield from _request_line(distiller, JOIN, JOIN_SHOTS, question, "")
        text = f"{line[:1].upper()}{line[1:]}{ARROW}{answer}" if line else ""
        target = {"action": "modify", "id": lesson.id} if lesson else {"action": "add"}
        return Operation.model_validate({**target, "text": text, **merge_origins(proposals_of[answer])})

    # Sorted, so that requests do not depend on which group finished first.
    answers = sorted(proposals_of)
    operations = yield [join_answer(answer, draw) for draw in range(draws) for answer in answers]
    return [tuple(operations[i * len(answers) : (i + 1) * len(answers)]) for i in range(draws)]


def _request_line(
    distiller: Distiller, system: str, shots: Sequence[tuple[str, str]], question: str, example: str
) -> Plan[str]:
    """Return the first line of the reply to a few-shot question; "" where there is none."""
    messages = [Message("system", system)]
    for shot, answer in shots:
        messages += [Message("user", shot), Message("assistant", answer)]
    messages.append(Message("user", question))
    # Small models go on after the line, so the reply is cut.
    short = replace(distiller, sampling=replace(distiller.sampling, max_tokens=MAX_LINE_TOKENS))
    reply: Reply = yield short.request(example, *messages)
    return next(iter(reply.message.content.strip().splitlines()), "").strip(" .-")
