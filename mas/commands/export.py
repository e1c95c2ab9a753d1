"""`edgewise graph export`."""

from pathlib import Path

from edgewise.mas.config import GraphConfig
from edgewise.mas.deploy.export import DEFAULT_CONFIG, DEFAULT_SAMPLING, ExportResult, export
from edgewise.mas.deploy.reference import read_reference, split_reference
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.run.artifact import Artifact


def command(source: str, folder: Path) -> ExportResult:
    """
    Export a GRAPH (see `mas.commands.graph`) to a folder, with the model and the settings of its evaluation.

    A plain module has no policy that chooses a graph for a query: a design with several graphs exports the one with the
    most stored queries. Raises ArtifactError or GraphError.
    """
    design = read_reference(source)
    use, *others = design.uses
    note = ""
    if others:
        queries = sum(other.queries for other in design.uses)
        note = (
            f"The design has {1 + len(others)} graphs for {queries} queries; this one was used for {use.queries} of "
            "them. `edgewise serve` chooses by query."
        )

    path = split_reference(source)[0]
    model, sampling, config = "", DEFAULT_SAMPLING, DEFAULT_CONFIG
    try:
        artifact = Artifact.load(path.parent if path.suffix == ".json" else path)
    except ArtifactError:
        pass  # a graph.json of its own has no settings
    else:
        model, sampling = artifact.model, artifact.sampling
        config = GraphConfig.from_artifact(artifact.settings)

    return export(
        use.graph,
        design.roles,
        folder,
        model=model,
        sampling=sampling,
        task_tools=design.tools,
        turns=config.turns,
        node_seconds=config.node_seconds,
        note=note,
    )
