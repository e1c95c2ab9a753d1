"""A library as those see it who know nothing of libraries: what it puts around the messages of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library
from edgewise.experience.prompting import retriever
from edgewise.experience.prompting.retriever import Retrieval
from edgewise.experience.store.reference import lacks_settings, shared_settings, load_library, parse_reference
from edgewise.toolkit.errors import LibraryError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.types import Example, Message, Plan


@dataclass(frozen=True, slots=True)
class PromptLibrary:
    """
    A library and how its lessons are chosen for a prompt.

    `settings` are those that it was measured with, by their names in a config, the model among them; none where only
    lessons are known.
    """

    library: Library
    how: Retrieval
    settings: Mapping[str, Any]

    @property
    def version(self) -> str:
        """A short hash of everything that a model would see, and of how much of it at a time."""
        whole = self.library.tokens <= self.how.tokens
        return (
            self.library.version if whole else f"{self.library.version}/{self.how.tokens}{self.how.embedder}"
        )

    @property
    def tokens(self) -> int:
        """About how many tokens it adds to a prompt, at most."""
        return min(self.library.tokens, self.how.tokens)

    @property
    def embedder(self) -> str:
        """The model that is asked to choose lessons; "" for none."""
        return self.how.embedder

    def dressed(self, rows: Sequence[Example]) -> Plan[dict[str, tuple[Message, ...]]]:
        """The messages of rows with the lessons that fit each, by the row's id, as in use and in measurements."""
        yield from retriever.prepare(self.library, self.how)
        fitting = yield [retriever.shown(self.library, row.messages, self.how) for row in rows]
        return {row.id: part.insert_lessons(row.messages) for row, part in zip(rows, fitting, strict=True)}


def named(name: str) -> PromptLibrary:
    """
    The library that `name` stands for (see `experience.store.reference`).

    Raises LibraryError or ArtifactError where there is none, or no lesson in it.
    """
    library = load_library(parse_reference(name)).library
    if not library.lessons:
        raise LibraryError(f"{name} holds no lessons.")
    settings = {} if lacks_settings(name) else shared_settings([Artifact.load(name)])
    usual = ExperienceConfig.model_fields
    most, embedder = (settings.pop(key, usual[key].default) for key in ("prompt_tokens", "embedder"))
    return PromptLibrary(library, Retrieval(most, embedder), settings)
