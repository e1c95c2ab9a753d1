"""
Tasks whose right answers recur (routing, classification): what the groups of one answer have in common.

A weak model writes false lessons when it must explain one group in a sentence, and true ones when it only has to
name things. So Training-Free GRPO's question is asked in a form that it can answer: the groups of one right answer are
compared together, and the lesson names what their inputs have in common: "topics -> answer". Several libraries are
drawn, each from other groups.

Both questions are shown by worked examples: a model of 1.5B parameters does not follow the bare instruction.
"""

import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgewise.experience.distil.distiller import SHORT, Comparison, Distiller, origins
from edgewise.experience.library.library import Lesson, Library
from edgewise.experience.library.operations import Operation
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import BilledTo, Example, Group, Message, Plan, Reply, Request
from edgewise.toolkit.util.seeds import seed as seed_of

ARROW = " -> "
MOST, LINE = 6, 32

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


def recurring(examples: Sequence[Example]) -> bool:
    """Whether right answers recur: short texts, each the answer of three rows or more on average."""
    answers = [x.target for x in examples]
    short = all(isinstance(answer, str) and 0 < len(answer) <= 40 for answer in answers)
    return short and len(set(answers)) * 3 <= len(answers)


def propose(distiller: Distiller, task: Task, group: Group) -> Plan[Comparison]:
    """What one group contributes: its input, said in a few words where it is long, and the right answer."""
    topic = " ".join(_input(task, group.example).split())
    if len(topic.split()) > SHORT:
        shots = [(f"Input: {given}", said) for given, said in CONDITION_SHOTS]
        topic = yield from _line(distiller, CONDITION, shots, f"Input: {topic}", group.example.id)
    text = f"{topic}{ARROW}{group.example.target}"
    runs = tuple(run.id for run in group.members)
    add = Operation(action="add", text=text, sources=(group.example.id,), rollouts=runs)
    return Comparison((topic,), (add,) if topic else ())


def join(
    distiller: Distiller, library: Library, proposals: Sequence[Operation], draws: int, seed: int
) -> Plan[list[tuple[Operation, ...]]]:
    """
    Operations for each of `draws` libraries: one lesson per answer, new or in place of the current one.

    Each lesson names what some of its answer's proposals, and the current lesson's topics, have in common.
    """
    found: dict[str, list[Operation]] = defaultdict(list)
    for op in proposals:
        found[op.text.rpartition(ARROW)[2]].append(op)
    jobs = [(answer, draw) for draw in range(draws) for answer in sorted(found)]
    written = yield [
        _join_one(distiller, library, answer, found, seed_of(seed, "join", answer, draw))
        for answer, draw in jobs
    ]
    return [tuple(op for (_, d), op in zip(jobs, written, strict=True) if d == draw) for draw in range(draws)]


def _join_one(
    distiller: Distiller, library: Library, answer: str, found: Mapping[str, Sequence[Operation]], seed: int
) -> Plan[Operation]:
    current = _by_answer(library)
    known = [_topics(current[answer])] if answer in current else []
    items = known + _some(seed, map(_topics, found[answer]), MOST - len(known))
    asked = "\n".join(f"- {item}" for item in items)
    line = yield from _line(distiller, JOIN, JOIN_SHOTS, asked, "")
    text = f"{line[:1].upper()}{line[1:]}{ARROW}{answer}" if line else ""
    written = Operation(action="add", text=text)
    if answer in current:
        written = Operation(action="modify", id=current[answer].id, text=text)
    return written.model_copy(update=origins(found[answer]))


def _line(
    distiller: Distiller,
    system: str,
    shots: Sequence[tuple[str, str]],
    asked: str,
    example: str,
) -> Plan[str]:
    """The first line of a reply to a question shown with worked examples; "" where there is none."""
    turns = [
        Message(role, text) for shot in shots for role, text in zip(("user", "assistant"), shot, strict=True)
    ]
    messages = (Message("system", system), *turns, Message("user", asked))
    short = replace(distiller.sampling, max_tokens=LINE)
    reply: Reply = yield Request(
        distiller.model, messages, short, payer=BilledTo("distiller", example=example)
    )
    return next(iter(reply.message.content.strip().splitlines()), "").strip(" .-")


def _by_answer(library: Library) -> dict[str, Lesson]:
    """The lessons of the form "topics -> answer", by their answer."""
    return {x.text.rpartition(ARROW)[2]: x for x in library.lessons if ARROW in x.text}


def _topics(lesson: Lesson | Operation) -> str:
    return lesson.text.rpartition(ARROW)[0]


def _some(seed: int, texts: Iterable[str], most: int) -> list[str]:
    """At most so many of the texts, drawn without repetition."""
    distinct = list(dict.fromkeys(texts))
    order = np.random.default_rng(seed).permutation(len(distinct))
    return [distinct[i] for i in order[:most]]


def _input(task: Task, example: Example) -> str:
    """What a row puts into the prompt: its fields, without the prompt's fixed text."""
    fields = [name for _, name, _, _ in string.Formatter().parse(task.prompt) if name]
    shown = [str(example.metadata[name]) for name in fields if name in example.metadata]
    return "\n".join(shown) or example.messages[-1].content
