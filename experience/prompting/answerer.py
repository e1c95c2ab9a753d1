"""An experience library in use: requests are answered with the lessons that fit them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library
from edgewise.experience.prompting import retriever
from edgewise.experience.prompting.retriever import Retrieval
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import ModelClient, drive
from edgewise.toolkit.serve.server import merge_sampling
from edgewise.toolkit.types import Plan, Reply, Request


def answerer(artifact: Artifact, model: str, client: ModelClient) -> Callable[[Request], Awaitable[Reply]]:
    """
    What answers with an artefact's lessons, through `client`, with the model named here.

    A request is dressed as in the measurement: with all lessons, or with those that fit it where they are too many.
    """
    library = Library.from_json(artifact.library)
    usual = ExperienceConfig.model_fields
    tokens = artifact.settings.get("prompt_tokens") or usual["prompt_tokens"].default
    how = Retrieval(tokens, artifact.settings.get("embedder") or "")

    async def answer(request: Request) -> Reply:
        sampling = merge_sampling(request, artifact.sampling)
        asked = replace(request, model=model, sampling=sampling)
        return await drive(answered(asked, library, how), client)

    return answer


def answered(request: Request, library: Library, how: Retrieval) -> Plan[Reply]:
    """The reply to a request with the lessons that fit it."""
    shown = yield from retriever.shown(library, request.messages, how)
    return (yield replace(request, messages=shown.insert_lessons(request.messages)))
