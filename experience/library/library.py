"""
The experience library: short lessons that go into a prompt.

A `Library` is a value. Inside, a lesson is known by a stable id made from its first wording; the labels [G0],
[G1], ... of the paper (arXiv 2510.08191) exist only in rendered text.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from edgewise.toolkit.errors import ArtifactError, ConfigError
from edgewise.toolkit.types import Message

Kind = Literal["content", "form"]
Place = Literal["system", "before", "after", "split"]
PLACES: tuple[str, ...] = get_args(Place)

LETTERS = 4
_WORDS = re.compile(r"[A-Za-z]+")
_SIGNS = re.compile(r"[\x00-\x1f!-@\[-`{-\x7f]")
_OTHERS = re.compile(r"[^\x00-\x7f]+")

LEAD = "Lessons from earlier attempts. Use those that fit:"


@dataclass(frozen=True, slots=True)
class Effect:
    """
    What showing a lesson is worth: the change in mean reward with its 95 % interval.

    `uses` counts the rollouts that saw it while this was measured, `unused` those that might have and did not.
    """

    estimate: float
    low: float
    high: float
    uses: int
    unused: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """
    One lesson: what to do (`content`) or how to write the answer (`form`).

    `born` is the step it entered at (0: before any), `sources` the ids of the examples it was drawn from and
    `rollouts` those of the runs that were compared. A `locked` lesson is changed by people only; one that is
    `always` on is shown whether or not it fits the question. `effect` is None until it is measured.
    """

    id: str
    text: str
    kind: Kind = "content"
    born: int = 0
    sources: tuple[str, ...] = ()
    rollouts: tuple[str, ...] = ()
    locked: bool = False
    always: bool = False
    effect: Effect | None = None


@dataclass(frozen=True, slots=True)
class Library:
    """
    Lessons in the order in which they are shown.

    `place` is where they go in the prompt; `labelled` whether they carry their labels there ("[G0]. text", as in
    the paper) or stand in a plain list.
    """

    lessons: tuple[Lesson, ...] = ()
    place: Place = "before"
    labelled: bool = False

    @property
    def version(self) -> str:
        """A short hash of everything that a model would see: equal libraries have equal versions."""
        head = [self.place, self.labelled] if self.lessons else []
        shown = [head, *([x.kind, x.text] for x in self.lessons)]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:12]

    @property
    def tokens(self) -> int:
        """Estimated tokens of all lessons as they are shown."""
        return estimate_tokens(self.render())

    def __len__(self) -> int:
        return len(self.lessons)

    def with_lessons(self, lessons: Iterable[Lesson]) -> "Library":
        """The same library with other lessons."""
        return replace(self, lessons=tuple(lessons))

    def labels(self) -> dict[str, Lesson]:
        """The lessons by their label in rendered text: G0, G1, ..."""
        return {f"G{index}": lesson for index, lesson in enumerate(self.lessons)}

    def fit_budget(self, max_lessons: int, max_tokens: int) -> "Library":
        """
        The library cut to at most so many lessons and `most` estimated tokens.

        Locked and always-on lessons stay longest, then those of the best measured effect (unmeasured counts as
        none), then those drawn from most examples, then the newest. Raises ConfigError where the locked ones
        alone are too many.
        """
        kept = self
        while kept.lessons and (len(kept) > max_lessons or kept.tokens > max_tokens):
            least = min(kept.lessons, key=_worth)
            if least.locked:
                raise ConfigError(f"The locked lessons alone pass {max_lessons} lessons or {max_tokens:,} tokens.")
            kept = kept.with_lessons(x for x in kept.lessons if x is not least)
        return kept

    def render(self, kinds: Iterable[Kind] = ("content", "form")) -> str:
        """The lessons as text, a line each; "" when there are none of these kinds."""
        shown = ((f"[{label}]." if self.labelled else "-", x) for label, x in self.labels().items())
        lines = [f"{mark} {x.text}" for mark, x in shown if x.kind in kinds]
        return "\n".join([LEAD, *lines]) if lines else ""

    def insert_lessons(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """
        The messages of an example with the lessons put in their place.

        "system": at the end of the system message. "before": before the problem, so that all calls of a step
        share a prefix. "after": after the problem, as the authors have it. "split": content before, form after.
        Learning and use both come through here.
        """
        if not self.lessons:
            return messages
        if self.place == "system":
            return _to_system(messages, self.render())
        before = self.render({"before": ("content", "form"), "split": ("content",)}.get(self.place, ()))
        after = self.render({"after": ("content", "form"), "split": ("form",)}.get(self.place, ()))
        return _around_problem(messages, before, after)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in library.json."""
        lessons = [asdict(lesson) for lesson in self.lessons]
        return {"place": self.place, "labelled": self.labelled, "lessons": lessons}

    @classmethod
    def from_json(cls, data: Any) -> "Library":
        """
        Read library.json, or the authors' flat object {"G0": text, ...}.

        Raises ArtifactError where it is neither.
        """
        try:
            if isinstance(data, Mapping) and "lessons" in data:
                return _checked(data)
            if isinstance(data, Mapping) and all(re.fullmatch(r"G\d+", str(key)) for key in data):
                return cls(tuple(make_lesson(str(text)) for text in data.values()))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"This library can't be read ({error}).") from error
        raise ArtifactError('This is no library: expected {"lessons": [...]} or {"G0": "...", ...}.')

    def to_flat_json(self) -> dict[str, str]:
        """The authors' format: {"G0": text, ...}."""
        return {label: lesson.text for label, lesson in self.labels().items()}


def make_lesson(text: str, kind: Kind = "content", born: int = 0, sources: Iterable[str] = ()) -> Lesson:
    """A new lesson; its id is a hash of its wording."""
    text = " ".join(text.split())
    return Lesson(
        hashlib.sha256(text.encode()).hexdigest()[:8], text, kind, born, tuple(sorted(set(sources)))
    )


def estimate_tokens(text: str) -> int:
    """
    An estimate of a text's tokens, on the high side.

    A token for every four letters of a word or part of them, for every digit and sign, and for every byte of what is
    not ASCII. Never below the tokenizer of the small embedded model in bench/cap.py, whose vocabulary of 49,152 is
    poor at other scripts; larger ones need half of it, or less.
    """
    words = sum(-(-len(word) // LETTERS) for word in _WORDS.findall(text))
    signs = len(_SIGNS.findall(text))
    others = sum(len(run.encode("utf-8", "replace")) for run in _OTHERS.findall(text))
    return words + signs + others


def _worth(lesson: Lesson) -> tuple[float, ...]:
    """What is dropped first where space is short: the least."""
    effect = lesson.effect.estimate if lesson.effect else 0.0
    return lesson.locked, lesson.always, effect, len(lesson.sources), lesson.born


def _checked(data: Mapping[str, Any]) -> Library:
    """library.json, every field of it checked. Raises ValueError."""
    from pydantic import TypeAdapter, ValidationError

    try:
        library = TypeAdapter(Library).validate_python(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if len({x.id for x in library.lessons}) < len(library):
        raise ValueError("two lessons have the same id")
    return library


def _to_system(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def _around_problem(messages: tuple[Message, ...], before: str, after: str) -> tuple[Message, ...]:
    """Put text around the last user message."""
    last = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
    if last is None:
        return (*messages, Message("user", "\n\n".join(filter(None, (before, after)))))
    content = "\n\n".join(filter(None, (before, messages[last].content, after)))
    return (*messages[:last], replace(messages[last], content=content), *messages[last + 1 :])
