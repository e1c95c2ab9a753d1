"""`edgewise.evaluate`: the function behind `edgewise evaluate`, for artefacts of any kind."""

import asyncio

import pytest

import edgewise
from edgewise import Artifact, Limits
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.graph.graph import single
from edgewise.toolkit.errors import ArtifactError, ConfigError, LimitReached
from edgewise.toolkit.tracking.events import RunClosed, RunOpened
from tests.support import toy
from tests.support.command import SCRIPTED

LESSONS = "".join(f"- A {thing} is {toy.COLOURS[n % 3]}.\n" for n, thing in enumerate(toy.THINGS))


@pytest.fixture
def lessons(tmp_path):
    """A file with a lesson for each thing."""
    path = tmp_path / "lessons.md"
    path.write_text(LESSONS)
    return path


@pytest.fixture
def graph(tmp_path):
    """An artefact with a graph of one agent."""
    files = {"graph.json": FixedDesign(single("solver")).to_json()}
    return Artifact("t", SCRIPTED, files).save(tmp_path / "agent.edge")


def evaluate(artifacts, folder, **settings):
    return edgewise.evaluate(toy.task(), artifacts, model=SCRIPTED, run=folder / "run", **settings)


def test_lessons_and_graphs_stand_beside_the_unchanged_model(lessons, graph, tmp_path):
    result = evaluate([lessons, graph], tmp_path, samples=2)
    means = {arm.name: arm.mean.estimate for arm in result.evidence.results}
    assert list(means) == ["unchanged", "lessons", "agent"]
    assert means["lessons"] == 1.0 > means["unchanged"]
    assert [arm.rollouts for arm in result.evidence.results] == [36, 36, 36]
    assert (result.path, result.improved) == (tmp_path / "run", False)
    assert (tmp_path / "run" / "report.html").exists()


def test_async_twin_returns_the_same(lessons, tmp_path):
    result = evaluate([str(lessons)], tmp_path)
    twin = edgewise.aevaluate(toy.task(), [lessons], model=SCRIPTED, run=tmp_path / "twin")
    assert asyncio.run(twin).evidence.to_json() == result.evidence.to_json()


def test_limits_hold_and_the_run_resumes(lessons, tmp_path):
    with pytest.raises(LimitReached, match=r"calls \(5\)"):
        evaluate([lessons], tmp_path, limits=Limits(calls=5))
    assert evaluate([lessons], tmp_path).costs["measuring"]["calls"] > 5


def test_observer_receives_the_events_of_the_run(lessons, tmp_path):
    events = []
    evaluate([lessons], tmp_path, on_event=events.append)
    assert isinstance(events[0], RunOpened) and isinstance(events[-1], RunClosed)


def test_wrong_artifacts_and_settings_are_named(lessons, tmp_path):
    with pytest.raises(ArtifactError, match="no artefact at"):
        evaluate([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(ConfigError, match="no setting 'sample'"):
        evaluate([lessons], tmp_path, sample=3)
    assert not (tmp_path / "run").exists()
