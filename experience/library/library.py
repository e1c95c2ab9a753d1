"""
The experience library: short lessons that go into a prompt.

A `Library` is a value. Inside, a lesson is known by a stable id made from its first wording; the labels [G0],
[G1], ... of the paper (arXiv 2510.08191) exist only in rendered text.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from edgewise.toolkit.errors import ArtifactError, ConfigError
from edgewise.toolkit.types import Message
from edgewise.toolkit.util.hashing import hash_json, hash_text
from edgewise.toolkit.util.validation import describe_error

Kind = Literal["content", "form"]
Place = Literal["system", "before", "after", "split"]
PLACES: tuple[str, ...] = get_args(Place)

LETTERS_PER_TOKEN = 4
_WORDS = re.compile(r"[A-Za-z]+")
_SIGNS = re.compile(r"[\x00-\x1f!-@\[-`{-\x7f]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")

LEAD = "Lessons from earlier attempts. Use those that fit:"


@dataclass(frozen=True, slots=True)
class Effect:
    """
    Effect of showing a lesson: the change in mean reward with its 95 % interval, in units of the reward.

    `uses` counts the rollouts of the measurement whose prompt held it, `unused` those whose prompt might have.
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

    `born` is the step it entered at (0: before any), `sources` are the ids of the examples it was drawn from and
    `rollouts` those of the rollouts that were compared. Only people change a `locked` lesson; one that is `always`
    on is shown whether or not it fits the question. `effect` is None until it is measured.
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
        """Short hash of everything that a model would see: equal libraries have equal versions."""
        # Ids, sources and effects are not shown; without lessons the place shows nothing either.
        settings = [self.place, self.labelled] if self.lessons else []
        return hash_json([settings, *([x.kind, x.text] for x in self.lessons)])

    @property
    def tokens(self) -> int:
        """Estimated tokens of all lessons as they are shown."""
        return estimate_tokens(self.render())

    def __len__(self) -> int:
        return len(self.lessons)

    def with_lessons(self, lessons: Iterable[Lesson]) -> "Library":
        """Return the same library with other lessons."""
        return replace(self, lessons=tuple(lessons))

    def labels(self) -> dict[str, Lesson]:
        """Return the lessons by their label in rendered text: G0, G1, ..."""
        return {f"G{index}": lesson for index, lesson in enumerate(self.lessons)}

    def fit_budget(self, max_lessons: int, max_tokens: int) -> "Library":
        """
        Return the library cut to at most so many lessons and estimated tokens.

        Locked and always-on lessons stay longest, then those of the best measured effect (unmeasured counts as
        none), then those drawn from most examples, then the newest. Raises ConfigError where the locked ones
        alone are too many.
        """

        def rank(lesson: Lesson) -> tuple[float, ...]:
            effect = lesson.effect.estimate if lesson.effect else 0.0
            return lesson.locked, lesson.always, effect, len(lesson.sources), lesson.born

        # The lead and the labels cost tokens too, so the whole is rendered anew after each removal.
        library = self
        while library.lessons and (len(library) > max_lessons or library.tokens > max_tokens):
            lowest = min(library.lessons, key=rank)
            if lowest.locked:
                raise ConfigError(f"The locked lessons alone pass {max_lessons} lessons or {max_tokens:,} tokens.")
            library = library.with_lessons(x for x in library.lessons if x is not lowest)
        return library

    def render(self, kinds: Iterable[Kind] = ("content", "form")) -> str:
        """Return the lessons as text, a line each; "" without any of these kinds."""
        lines = [
            f"[{label}]. {lesson.text}" if self.labelled else f"- {lesson.text}"
            for label, lesson in self.labels().items()
            if lesson.kind in kinds
        ]
        return "\n".join([LEAD, *lines]) if lines else ""

    def insert_lessons(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """
        Return the messages of an example with the lessons in their place; learning and use both come through here.

        "system": at the end of the system message. "before": before the problem, so that all calls of a step
        share a prefix. "after": after the problem, as the authors have it. "split": content before, form after.
        """
        if not self.lessons:
            return messages
        if self.place == "system":
            if messages and messages[0].role == "system":
                return (Message("system", f"{messages[0].content}\n\n{self.render()}"), *messages[1:])
            return (Message("system", self.render()), *messages)

        # The problem is the last user message; without one, the lessons become one.
        before = self.render({"before": ("content", "form"), "split": ("content",)}.get(self.place, ()))
        after = self.render({"after": ("content", "form"), "split": ("form",)}.get(self.place, ()))
        last = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
        if last is None:
            return (*messages, Message("user", "\n\n".join(filter(None, (before, after)))))
        content = "\n\n".join(filter(None, (before, messages[last].content, after)))
        return (*messages[:last], replace(messages[last], content=content), *messages[last + 1 :])

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as in library.json."""
        lessons = [asdict(lesson) for lesson in self.lessons]
        return {"place": self.place, "labelled": self.labelled, "lessons": lessons}

    @classmethod
    def from_json(cls, data: Any) -> "Library":
        """
        Read library.json, or the authors' flat object {"G0": text, ...}.

        Raises ArtifactError where it is neither, or where a field is wrong or an id stands twice.
        """
        from pydantic import TypeAdapter, ValidationError  # takes a tenth of a second to import

        is_flat = isinstance(data, Mapping) and all(re.fullmatch(r"G\d+", str(key)) for key in data)
        try:
            if isinstance(data, Mapping) and "lessons" in data:
                library = TypeAdapter(Library).validate_python(dict(data))
            elif is_flat:
                library = cls(tuple(make_lesson(str(text)) for text in data.values()))
            else:
                raise ArtifactError('This is no library: expected {"lessons": [...]} or {"G0": "...", ...}.')
        except ValidationError as error:
            raise ArtifactError(f"This library can't be read ({describe_error(error)}).") from error
        except ValueError as error:  # halves of surrogate pairs, which have no hash
            raise ArtifactError(f"This library can't be read ({error}).") from error
        if not is_flat and len({x.id for x in library.lessons}) < len(library):
            raise ArtifactError("This library can't be read (two lessons have the same id).")
        return library

    def to_flat_json(self) -> dict[str, str]:
        """Return the authors' format: {"G0": text, ...}."""
        return {label: lesson.text for label, lesson in self.labels().items()}


def make_lesson(text: str, kind: Kind = "content", born: int = 0, sources: Iterable[str] = ()) -> Lesson:
    """Return a new lesson; its id is a hash of its wording."""
    text = " ".join(text.split())
    return Lesson(hash_text(text, 8), text, kind, born, tuple(sorted(set(sources))))


def estimate_tokens(text: str) -> int:
    """
    Estimate the tokens of a text, on the high side.

    A token for every four letters of a word or part of them, for every digit and sign, and for every byte of what is
    not ASCII. Never below the tokenizer of the small embedded model in bench/cap.py, whose vocabulary of 49,152 is
    poor at other scripts; larger ones need half of it, or less.
    """
    words = sum(-(-len(word) // LETTERS_PER_TOKEN) for word in _WORDS.findall(text))  # rounded up
    signs = len(_SIGNS.findall(text))
    others = sum(len(run.encode("utf-8", "replace")) for run in _NON_ASCII.findall(text))
    return words + signs + others
