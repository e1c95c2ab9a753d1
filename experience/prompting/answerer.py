"""Answer requests with the lessons of an artefact, as `edgewise serve` does."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library
from edgewise.experience.prompting.retriever import Retrieval, select_lessons
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import ModelClient, drive
from edgewise.toolkit.serve.server import merge_sampling
from edgewise.toolkit.types import Plan, Reply, Request


def build_answerer(artifact: Artifact, model: str, client: ModelClient) -> Callable[[Request], Awaitable[Reply]]:
    """
    Return a function that answers requests by `model`, through `client`, with an artefact's lessons.

    Lessons are inserted as in the measurement: all of them, or those that match where they are too many.
    """
    library = Library.from_json(artifact.library)
    # An artefact of an older version may lack these settings.
    tokens = artifact.settings.get("prompt_tokens") or ExperienceConfig.model_fields["prompt_tokens"].default
    retrieval = Retrieval(tokens, artifact.settings.get("embedder") or "")

    def plan(request: Request) -> Plan[Reply]:
        lessons = yield from select_lessons(library, request.messages, retrieval)
        return (yield replace(request, messages=lessons.insert_lessons(request.messages)))

    async def answer(request: Request) -> Reply:
        sampling = merge_sampling(request, artifact.sampling)
        return await drive(plan(replace(request, model=model, sampling=sampling)), client)

    return answer
