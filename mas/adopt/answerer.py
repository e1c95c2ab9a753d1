"""Answer requests with a program's node libraries in their prompts."""

from pathlib import Path

from edgewise.mas.adopt.gateway import NodeOf, dressed, named, node_of
from edgewise.mas.adopt.node_libraries import FILE, NodeLibraries
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import ModelClient
from edgewise.toolkit.serve.server import Answer
from edgewise.toolkit.types import Reply, Request
from edgewise.toolkit.util.import_by_name import load_object

PROGRAM = "program.json"
"""The file that says how the nodes of the program are told apart, where that is not `node_of`."""


def _spec(artifact: Artifact) -> str:
    """How the nodes of an artefact's program are told apart, as "module:function"."""
    data = artifact.files[PROGRAM]
    if not isinstance(data, dict) or not isinstance(data.get("node_of"), str):
        raise ArtifactError(f"{PROGRAM} does not say how the nodes of the program are told apart.")
    return data["node_of"]


def answerer(artifact: Artifact, model: str, client: ModelClient) -> Answer:
    """
    What puts the lessons of its nodes into a program's calls and passes them on: for `edgewise serve`.

    A function of the user's that tells nodes apart is imported, from the folder that this runs in or as usual.
    """
    libraries = NodeLibraries.from_json(artifact.files.get(FILE))
    which: NodeOf = load_object(_spec(artifact), Path.cwd()) if PROGRAM in artifact.files else node_of

    async def answer(request: Request) -> Reply:
        asked = dressed(request, libraries.nodes, which(request))
        return await client.ask(named(asked, model, artifact.sampling.max_tokens))

    return answer
