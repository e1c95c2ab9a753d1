"""Training where a server samples: it is given the weights after each update, or learning stops at a limit."""

from pathlib import Path
from typing import Any

import pytest

from edgewise.learner.api import train
from edgewise.learner.config import WeightsConfig
from edgewise.learner.methods.published import find_method
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.inference_server import LOAD_WEIGHTS
from edgewise.learner.training.engine import Engine
from edgewise.learner.training.sampler import Sampler
from edgewise.learner.update.collate import collect_scored
from edgewise.toolkit.errors import ConfigError, LimitReached
from edgewise.toolkit.tracking.events import Event, StepFinished
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step, TokenizedTurn
from tests.support.learner import sampler as imitated
from tests.support.learner import tiny
from tests.support.learner.shares import SETTINGS, task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("tiny"))


def trained(folder: Path, run: Path, server: imitated.Sampler, **changes: Any) -> list[Any]:
    events: list[Event] = []
    settings = {**SETTINGS, "steps": 3, "sampler": f"{server.url}#tiny", **changes}
    train(task(test=2), model=f"torch/{folder}", run=run, on_event=events.append, **settings)
    return [event.record for event in events if isinstance(event, StepFinished)]


def test_server_samples_with_the_weights_of_each_step(folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(str(folder), device="cpu", dtype="float32")
    with imitated.Sampler(policy, routes=(LOAD_WEIGHTS,)) as server:
        records = trained(folder, tmp_path / "r", server)
        assert len(server.loaded) == 4  # before the first step, and after each
        # A server that still holds those of the run before is given the start again.
        again = trained(folder, tmp_path / "s", server)
    assert all(record.update.mismatch < 1e-4 for record in (*records, *again))
    assert not (tmp_path / "r" / "pushed").exists()


def test_staleness_limits_the_age_of_the_weights(folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(str(folder), device="cpu", dtype="float32")
    with imitated.Sampler(policy) as server:
        with pytest.raises(ConfigError, match=r"1 steps behind.*staleness"):
            trained(folder, tmp_path / "strict", server)
        records = trained(folder, tmp_path / "lax", server, staleness=2)
    gaps = [record.update.mismatch for record in records]
    assert gaps[0] < 1e-4 < gaps[1] < gaps[2]


def test_resumed_run_knows_the_age_of_the_weights(folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(str(folder), device="cpu", dtype="float32")
    with imitated.Sampler(policy) as server:
        with pytest.raises(LimitReached):
            trained(folder, tmp_path / "r", server, staleness=5, calls=10, save_every=1)
        # Nothing has moved yet: the weights that training begins with are not old.
        with pytest.raises(LimitReached):
            trained(folder, tmp_path / "r", server, staleness=2, calls=40, save_every=1)
        with pytest.raises(ConfigError, match="2 steps behind"):
            trained(folder, tmp_path / "r", server, staleness=1, save_every=1)


def test_sampler_without_a_url_is_refused(folder: Path) -> None:
    config = WeightsConfig(model=f"torch/{folder}", sampler="vllm")
    with pytest.raises(ConfigError, match="http://host:port/v1#NAME"):
        Sampler.from_config(config, None, Path("pushed"))  # type: ignore[arg-type]


def test_kl_of_a_rollout_is_the_sum_over_its_tokens(folder: Path) -> None:
    config = WeightsConfig(model=f"torch/{folder}", device="cpu", dtype="float32", lr=0.05)
    method = find_method("rloo").__class__(paper="x", shape=find_method("rloo").shape)
    engine = Engine(config, method)
    engine.policy.with_reference()
    message = Message("user", "hi")
    prompt = engine.policy.encode([message])

    def run(logprobs: tuple[float, ...]) -> Rollout:
        step = Step((message,), Message("assistant", "x"), tokens=TokenizedTurn(prompt, (65, 66), logprobs))
        return Rollout("e", "solver", 0, (step,), "stop", Score(1.0))

    group = Group(Example("e", (message,)), "solver", (run((-1.0, -2.0)), run((-3.0, -4.0))))
    first, second = engine.compute_kl(collect_scored([group]))
    assert first - second == pytest.approx(4.0, abs=1e-4)
