"""A library's prompts for callers that don't know libraries: its lessons inserted into the messages of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library
from edgewise.experience.prompting.retriever import Retrieval, prefetch_embeddings, select_lessons
from edgewise.experience.store import reference
from edgewise.toolkit.errors import LibraryError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.types import Example, Message, Plan


@dataclass(frozen=True, slots=True)
class PromptLibrary:
    """
    A library and how its lessons are selected for a prompt.

    `settings` are those that it was measured with, by their names in a config, the model among them; none where only
    lessons are known.
    """

    library: Library
    retrieval: Retrieval
    settings: Mapping[str, Any]

    @property
    def version(self) -> str:
        """A short hash of everything that a model would see, and of how much of it at a time."""
        if self.library.tokens <= self.retrieval.tokens:
            return self.library.version
        return f"{self.library.version}/{self.retrieval.tokens}{self.retrieval.embedder}"

    @property
    def tokens(self) -> int:
        """Estimated tokens that it adds to a prompt, at most."""
        return min(self.library.tokens, self.retrieval.tokens)

    @property
    def embedder(self) -> str:
        """The model whose vectors select lessons; "" for none."""
        return self.retrieval.embedder

    def insert_lessons(self, rows: Sequence[Example]) -> Plan[dict[str, tuple[Message, ...]]]:
        """Return the messages of rows with the lessons that match each, by the row's id, as in measurements."""
        yield from prefetch_embeddings(self.library, self.retrieval)
        parts = yield [select_lessons(self.library, row.messages, self.retrieval) for row in rows]
        return {row.id: part.insert_lessons(row.messages) for row, part in zip(rows, parts, strict=True)}


def load_prompt_library(name: str) -> PromptLibrary:
    """
    Load the library that `name` refers to (see `experience.store.reference`).

    Raises LibraryError or ArtifactError where there is none, or no lesson in it.
    """
    library = reference.load_library(reference.parse_reference(name)).library
    if not library.lessons:
        raise LibraryError(f"{name} holds no lessons.")
    settings = {} if reference.lacks_settings(name) else reference.shared_settings([Artifact.load(name)])
    # The retrieval is part of the library here, so it is no setting of the caller's.
    fields = ExperienceConfig.model_fields
    tokens, embedder = (settings.pop(key, fields[key].default) for key in ("prompt_tokens", "embedder"))
    return PromptLibrary(library, Retrieval(tokens, embedder), settings)
