"""What training shows to people on the terminal."""

from toolkit import finished, report
from toolkit.run import Result
from toolkit.shown import cost_lines


def result_lines(result: Result) -> list[str]:
    """What `edgewise improve --by weights` prints."""
    about = result.artifact.files["weights.json"]
    return [
        *result.evidence.lines(),
        "",
        report.finding(finished.read(result.path)),
        f"method: {about['name']}, {about['steps']} steps"
        + (f"; {about['stopped']}" if about["stopped"] else ""),
        "",
        *cost_lines(result),
        f"artefact: {result.path / 'artifact'}",
        f"report:   {result.path / 'report.html'}",
    ]
