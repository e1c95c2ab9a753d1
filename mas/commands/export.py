"""`edgewise graph export`."""

from pathlib import Path

from edgewise.mas.config import GraphConfig
from edgewise.mas.deploy.export import DEFAULT_CONFIG, DEFAULT_SAMPLING, ExportResult, export
from edgewise.mas.deploy.reference import read_reference, split_reference
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.types import Sampling


def command(source: str, folder: Path) -> ExportResult:
    """
    Export a GRAPH (see `mas.commands.graph`) into `folder`, with the model and the settings it was measured with.

    Of a design that gives each query a graph of its own, the graph is exported that most of its stored queries get:
    a plain module has no policy. Raises ArtifactError or GraphError.
    """
    found = read_reference(source)
    model, sampling, settings = _measured_with(split_reference(source)[0])
    used, *others = found.uses
    note = ""
    if others:
        queries = used.queries + sum(other.queries for other in others)
        note = (
            f"The design has {1 + len(others)} graphs for {queries} queries; this one was used for {used.queries} of "
            "them. `edgewise serve` chooses by query."
        )
    return export(
        used.graph,
        found.roles,
        folder,
        model=model,
        sampling=sampling,
        task_tools=found.tools,
        turns=settings.turns,
        node_seconds=settings.node_seconds,
        note=note,
    )


def _measured_with(path: Path) -> tuple[str, Sampling, GraphConfig]:
    """The model and the settings of an artefact; of a bare graph.json none."""
    try:
        artifact = Artifact.load(path.parent if path.suffix == ".json" else path)
    except ArtifactError:
        return "", DEFAULT_SAMPLING, DEFAULT_CONFIG
    return artifact.model, artifact.sampling, GraphConfig.from_artifact(artifact.settings)
