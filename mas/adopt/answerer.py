"""Node libraries in use: what `edgewise serve` does with the calls of a program."""

from pathlib import Path

from edgewise.mas.adopt.gateway import NodeOf, insert_node_lessons, node_of, route_request
from edgewise.mas.adopt.node_libraries import FILE, NodeLibraries
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import ModelClient
from edgewise.toolkit.serve.server import Answer
from edgewise.toolkit.types import Reply, Request
from edgewise.toolkit.util.import_by_name import load_object

PROGRAM = "program.json"
"""The file that names the function which tells nodes apart, where that is not `node_of`."""


def build_answerer(artifact: Artifact, model: str, client: ModelClient) -> Answer:
    """
    Return a function that inserts the lessons of a call's node and passes the call on.

    A function of the user's that tells nodes apart is imported, from the working folder or as usual. Raises
    ArtifactError for a program.json without one.
    """
    libraries = NodeLibraries.from_json(artifact.files.get(FILE))
    name_node: NodeOf = node_of
    if PROGRAM in artifact.files:
        data = artifact.files[PROGRAM]
        if not isinstance(data, dict) or not isinstance(data.get("node_of"), str):
            raise ArtifactError(f"{PROGRAM} does not say how the nodes of the program are told apart.")
        name_node = load_object(data["node_of"], Path.cwd())

    async def answer(request: Request) -> Reply:
        with_lessons = insert_node_lessons(request, libraries.nodes, name_node(request))
        return await client.ask(route_request(with_lessons, model, artifact.sampling.max_tokens))

    return answer
