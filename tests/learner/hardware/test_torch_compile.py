"""Compiled layers: the same numbers, in an update and in sampling."""

import shutil

import pytest
import torch

from edgewise.learner.attention.logprobs import compute_logps
from edgewise.learner.config import WeightsConfig
from edgewise.learner.hardware.weight_packing import MIN_PRODUCTS
from edgewise.learner.methods.published import METHODS
from edgewise.learner.sampling.generate import CompletionRequest, sample
from edgewise.learner.training.engine import Engine
from edgewise.toolkit.errors import ConfigError
from tests.support.learner import exact

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, of itself


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_layers_give_equal_logps_gradients_and_replies() -> None:
    from torch._dynamo.utils import counters  # here: it takes seconds to load

    counters.clear()
    plain, compiled = (exact.policy("Llama", torch.float32, compiled=flag) for flag in (False, True))
    batch = exact.batch(*exact.RAGGED)
    ours, theirs = (compute_logps(policy, batch, entropy=True) for policy in (compiled, plain))
    assert exact.max_difference(ours, theirs) <= 1e-5
    assert exact.max_difference(exact.compute_gradients(compiled, ours), exact.compute_gradients(plain, theirs)) <= 1e-4
    requests = [CompletionRequest((5, 6, 7), 2 * MIN_PRODUCTS, seed=seed) for seed in range(3)]
    for one, other in zip(sample(compiled, requests), sample(plain, requests), strict=True):
        assert (one.ids, one.logprobs) == (other.ids, other.logprobs)
    assert counters["stats"]["unique_graphs"] > 0
    with compiled.with_reference().reference():
        assert exact.max_difference((compute_logps(compiled, batch)[0],), (theirs[0],)) <= 1e-5
    assert "compiled layers" in compiled.summary and "compiled layers" not in plain.summary


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        exact.policy(compiled=True)


def test_compile_with_shard_is_refused() -> None:
    with pytest.raises(ConfigError, match="compile or shard"):
        Engine(WeightsConfig(shard=True, compile=True), METHODS["grpo"])
