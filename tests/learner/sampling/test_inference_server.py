import math
import re

import numpy as np
import pytest
import torch

from edgewise.learner.attention.logprobs import compute_logps
from edgewise.learner.methods.batch import Batch
from edgewise.learner.policy.policy import Lora, Policy
from edgewise.learner.sampling import inference_server
from edgewise.learner.sampling.inference_server import LOAD_ADAPTER, LOAD_WEIGHTS, UNLOAD_ADAPTER, InferenceServer
from edgewise.learner.update.gradient_step import truncated_importance_weights
from edgewise.toolkit.errors import ModelError, ProviderDown
from edgewise.toolkit.model.middleware import Retry
from edgewise.toolkit.types import Message, Request, Sampling, Tool
from tests.support.learner import tiny
from tests.support.learner.sampler import Sampler

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def policy(noise=0.0, **settings):
    """The tiny model, sharper than at first, with weights a bit off."""
    model = tiny.model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4.0)
            weight.mul_(1 + noise * torch.randn(weight.shape, generator=generator))
    return Policy.from_model(model, tiny.tokenizer(), name="tiny", **settings)


def requests(count, text="hello", **settings):
    sampling = {"max_tokens": 12, **settings}
    return [
        Request("torch/tiny", (Message("user", text),), Sampling(**{"seed": i, **sampling}), sample=i)
        for i in range(count)
    ]


def batch(replies, own_policy, group=0):
    """What the replies say, with our log-probabilities beside the sampler's."""
    rows = Batch.from_lists(
        [r.tokens.prompt_ids for r in replies],
        [r.tokens.completion_ids for r in replies],
        [group] * len(replies),
        [0.0] * len(replies),
        sampler_logp=[r.tokens.logprobs for r in replies],
    )
    with torch.no_grad():
        ours, _ = compute_logps(own_policy, rows)
    return rows.with_columns(old_logp=ours)


def gaps(rows):
    """How far our log-probabilities and the sampler's are apart, for each token of which it said something."""
    gap = (rows.column("old_logp") - rows.column("sampler_logp")).abs()[rows.mask]
    return gap[~gap.isnan()]


def test_server_returns_ids_and_log_probs():
    ours = policy()
    with Sampler(policy()) as sampler:
        replies = InferenceServer(sampler.url, "tiny", ours).answer(requests(8))
    for reply in replies:
        assert (reply.model, reply.failed) == ("torch/tiny", False)
        assert reply.tokens.prompt_ids == ours.encode([Message("user", "hello")])
        assert reply.message.content == ours.decode(reply.tokens.completion_ids)
        assert reply.usage.output == len(reply.tokens.completion_ids)
    assert set(sampler.models) == {"tiny"}
    assert gaps(batch(replies, ours)).max() < 1e-5


def test_other_weights_show_as_a_mismatch():
    ours = policy()
    with Sampler(policy(0.05)) as sampler:
        replies = InferenceServer(sampler.url, "tiny", ours).answer(requests(8))
    values = gaps(batch(replies, ours))
    assert 0.01 < values.mean() < values.max() < 3
    assert len(values) == sum(len(r.tokens.completion_ids) for r in replies)


def test_truncated_weights_remove_most_of_the_bias():
    ours, theirs, asks = policy(), policy(0.4), requests(1000, max_tokens=1)
    with Sampler(theirs) as sampler:
        replies = InferenceServer(sampler.url, "tiny", ours, concurrency=500).answer(asks)
    rows = batch(replies, ours)
    prompt = torch.tensor([replies[0].tokens.prompt_ids])
    with torch.no_grad():
        mine, other = (model.model(prompt).logits[0, -1].softmax(-1) for model in (ours, theirs))
    value = torch.sign(other - mine)  # what the two disagree on most
    truth = float((mine * value).sum())
    signs = value[rows.ids[:, 0]]
    weights = truncated_importance_weights(rows.column("old_logp"), rows.column("sampler_logp"), cap=5.0)[:, 0]
    plain, corrected = float(signs.mean()), float((signs * weights).mean())
    noise = float((signs * weights).std()) / math.sqrt(len(signs))
    assert abs(plain - truth) > 6 * noise
    assert abs(corrected - truth) < 3 * noise


@pytest.mark.parametrize("texts", [True, False])
def test_text_without_ids_is_tokenized_again(texts):
    ours = policy()
    with Sampler(policy(), ids=False, texts=texts) as sampler:
        server = InferenceServer(sampler.url, "tiny", ours)
        replies = server.answer(requests(6, temperature=0.5))
        assert sum("return_token_ids" in body for body in sampler.bodies) <= 6
    marked = [all(map(math.isnan, r.tokens.logprobs)) for r in replies]
    sure = [not any(map(math.isnan, r.tokens.logprobs)) for r in replies]
    assert all(a != b for a, b in zip(marked, sure, strict=True))
    assert texts or all(marked)
    for reply, exact in zip(replies, sure, strict=True):
        assert ours.decode(reply.tokens.completion_ids) == reply.message.content
        if exact:
            assert len(gaps(batch([reply], ours))) == len(reply.tokens.logprobs)


def test_nan_of_the_sampler_has_weight_one():
    sampler_logp = torch.tensor([[-1.0, math.nan, -3.0]])
    mine = torch.tensor([[-1.5, -9.0, -1.0]], requires_grad=True)
    weights = truncated_importance_weights(mine, sampler_logp, cap=2.0)
    assert not weights.requires_grad
    assert weights.tolist() == [[pytest.approx(math.exp(-0.5)), 1.0, 2.0]]


def test_server_loads_pushed_weights(tmp_path):
    ours = policy()
    with Sampler(policy(0.1), routes=(LOAD_WEIGHTS,)) as sampler:
        server = InferenceServer(sampler.url, "tiny", ours, folder=tmp_path)
        far = gaps(batch(server.answer(requests(4)), ours)).mean()
        for _ in range(3):
            assert server.push_weights(ours)
        near = gaps(batch(server.answer(requests(4)), ours)).max()
    assert near < 1e-5 < far
    assert sampler.loaded == ["000001", "000002", "000003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003"]


def test_each_pushed_adapter_has_a_new_name(tmp_path):
    ours, theirs = policy(lora=Lora(rank=2)), policy(lora=Lora(rank=2))
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(0.2)
    with Sampler(theirs, routes=(LOAD_ADAPTER, UNLOAD_ADAPTER)) as sampler:
        server = InferenceServer(sampler.url, "tiny", ours, folder=tmp_path)
        far = gaps(batch(server.answer(requests(4)), ours)).mean()
        assert server.push_weights(ours)
        assert server.push_weights(ours)
        near = gaps(batch(server.answer(requests(4)), ours)).max()
        # That of another run counts from 1 too.
        assert InferenceServer(sampler.url, "tiny", ours, folder=tmp_path / "other").push_weights(ours)
        assert len(set(sampler.loaded)) == 2
        server.close()
    assert near < 1e-5 < far
    assert len(sampler.loaded) == 1
    first, second = sorted(set(sampler.models), key=len)
    assert first == "tiny" and re.fullmatch(r"tiny-edgewise-\w{8}-2", second)
    assert second not in sampler.loaded


@pytest.mark.parametrize("routes", [(), (LOAD_ADAPTER,)])
def test_server_without_routes_gets_no_weights(routes):
    with Sampler(policy(), routes=routes) as sampler:
        assert not InferenceServer(sampler.url, "tiny", policy()).push_weights(policy())
    assert sampler.loaded == []


def test_a_server_that_refuses_weights_is_an_error(tmp_path):
    with Sampler(policy(), routes=(LOAD_WEIGHTS,)) as sampler:
        server = InferenceServer(sampler.url, "tiny", policy(), folder=tmp_path / "refuse")
        with pytest.raises(ModelError, match="no memory"):
            server.push_weights(policy())


def test_a_server_that_is_not_there_is_explained(monkeypatch):
    server = InferenceServer("http://127.0.0.1:9/v1", "tiny", policy())
    with pytest.raises(ModelError, match="can't be reached"):
        server.push_weights(policy())
    monkeypatch.setattr(inference_server, "stack_middleware", lambda inner, **_: Retry(inner, attempts=1))
    with pytest.raises(ProviderDown, match="can't be reached"):
        server.answer(requests(1))


def test_long_prompts_and_tools_are_refused_without_a_call():
    ours = policy()
    tool = Request("torch/tiny", (Message("user", "a"),), Sampling(seed=1), (Tool("add", "adds", {}),))
    with Sampler(policy()) as sampler:
        long, with_tool, room = InferenceServer(sampler.url, "tiny", ours).answer(
            [*requests(1, "x" * 600), tool, *requests(1, "x" * 490, max_tokens=99)]
        )
    assert (long.stop, with_tool.stop) == ("refused", "refused")
    assert "512 at most" in long.error
    assert "no tools" in with_tool.error
    assert len(room.tokens.prompt_ids) + len(room.tokens.completion_ids) <= 512
    assert len(sampler.bodies) == 1


def test_a_stop_string_ends_the_text_and_not_the_tokens():
    ours = policy()
    with Sampler(policy()) as sampler:
        server = InferenceServer(sampler.url, "tiny", ours)
        (whole,) = server.answer(requests(1, temperature=0.0, max_tokens=30))
        text = whole.message.content
        (cut,) = server.answer(requests(1, temperature=0.0, max_tokens=30, stop=(text[9:11],)))
    assert cut.message.content == text[: text.index(text[9:11])]
    assert np.array_equal(cut.tokens.completion_ids, whole.tokens.completion_ids[: len(cut.tokens.completion_ids)])
