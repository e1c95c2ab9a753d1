"""The shared-prefix forward: the same numbers as one padded row for each reply."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention as sdpa

from edgewise.learner.attention import sequence_packing as layouts
from edgewise.learner.attention import shared_prefix
from edgewise.learner.attention.logprobs import compute_logps
from edgewise.learner.attention.sequence_packing import pack_sequences
from edgewise.learner.attention.shared_prefix import AttentionOptions
from edgewise.learner.methods.batch import Batch
from edgewise.learner.policy.policy import Lora
from edgewise.toolkit.errors import ModelError
from tests.support.learner import exact

EXACT = {"Gemma2": 2e-6, "Cohere": 1e-7}
"""Where transformers computes in float32: a softmax with a soft cap, and Cohere's rotations."""


@pytest.mark.parametrize("family", exact.FAMILIES)
def test_values_and_gradients_are_those_of_padded_rows(family: str) -> None:
    policy = exact.policy(family)
    batch = exact.batch(*exact.RAGGED)
    theirs = exact.padded(policy, batch, 0.7)
    wanted = exact.gradients(policy, theirs)
    ours = compute_logps(policy, batch, temperature=0.7, entropy=True)
    bar = EXACT.get(family, 1e-10)
    assert exact.apart(ours, theirs) <= bar
    assert exact.apart(exact.gradients(policy, ours), wanted) <= bar * (1 if bar == 1e-10 else 100)


@pytest.mark.parametrize("rows", (1, 3, 16))
@pytest.mark.parametrize("scores", (1, 1 << 10))
def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, rows: int, scores: int) -> None:
    policy, batch = exact.policy("Mistral"), exact.batch(*exact.RAGGED)
    whole = compute_logps(policy, batch, entropy=True)
    gradients = exact.gradients(policy, whole)
    monkeypatch.setattr(shared_prefix, "MAX_BLOCK_ROWS", rows)
    monkeypatch.setattr(shared_prefix, "MAX_SCORES", scores)
    monkeypatch.setattr(layouts, "BUCKET_COST", 0)
    parts = compute_logps(policy, batch, entropy=True, chunk=64)
    assert exact.apart(parts, whole) <= 1e-12
    assert exact.apart(exact.gradients(policy, parts), gradients) <= 1e-12


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(0, 7), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.randoms(use_true_random=False),
)
def test_any_order_and_any_lengths(groups, random) -> None:
    policy = POLICY
    batch = exact.batch([p for p, _ in groups], [sizes for _, sizes in groups])
    order = list(range(len(batch)))
    random.shuffle(order)
    batch = batch.select_rows(order)
    if int(batch.lengths.sum()):
        with torch.no_grad():
            assert exact.apart(compute_logps(policy, batch, entropy=True), exact.padded(policy, batch)) <= 1e-10


POLICY = exact.policy("Qwen3")


def test_what_stands_behind_a_reply_changes_nothing() -> None:
    batch = exact.batch(*exact.RAGGED)
    dirty = Batch(
        batch.prompts, torch.where(batch.mask, batch.ids, 299), batch.mask, batch.group, batch.advantage
    )
    with torch.no_grad():
        clean, found = compute_logps(POLICY, batch)[0], compute_logps(POLICY, dirty)[0]
    assert torch.equal(clean, found)
    assert not clean[~batch.mask].any()


def test_replies_without_tokens_have_no_gradient() -> None:
    batch = exact.batch((4,), ((0, 0),))
    logp, spread = compute_logps(POLICY, batch, entropy=True)
    assert logp.shape == spread.shape == (2, 1)
    assert not any(g.any() for g in exact.gradients(POLICY, (logp, spread)))


def attended(causal) -> tuple[torch.Tensor, torch.Tensor]:
    """Five tokens of a prompt and three of a reply: what `causal(q, k, v)` makes of the reply, and what is right."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, 2, 4, generator=rng, dtype=torch.float64).transpose(0, 1) for _ in range(3))
    return causal(q[:, 5:], k, v), sdpa(q, k, v, is_causal=True)[:, 5:]


def test_causality_is_at_the_bottom_right_and_top_left_would_be_wrong() -> None:
    found, right = attended(lambda q, k, v: sdpa(q, k, v, is_causal=True))
    assert (found - right).abs().max() > 0.1

    row = pack_sequences([(1,) * 5], torch.ones(1, 4, dtype=torch.long), [4], torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, 2, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    ours = shared_prefix._SharedPrefixAttention.apply(q, k, v, row, AttentionOptions(0.5)).transpose(0, 1)
    assert (ours[:, 5:] - right).abs().max() <= 1e-14


def test_a_prompt_is_computed_once_and_the_last_token_not_at_all() -> None:
    row = pack_sequences([(1, 2, 3)] * 4, torch.ones(4, 6, dtype=torch.long), [6, 1, 2, 0], torch.device("cpu"))
    assert len(row.ids) == 3 + 5 + 0 + 1
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 3]
    assert len(row.targets) == 9 and len(row.sources) == 7


def test_checkpointing_changes_no_gradient() -> None:
    batch = exact.batch(*exact.RAGGED)
    found = [
        exact.gradients(policy, (compute_logps(policy, batch)[0],))
        for policy in (exact.policy("Mistral"), exact.policy("Mistral", checkpointing=True))
    ]
    assert exact.apart(*found) == 0
    assert not exact.policy("Mistral", checkpointing=True).model.training


def test_bfloat16_is_near_and_its_gradients_are_float32() -> None:
    half, full = exact.policy(dtype=torch.bfloat16), exact.policy(dtype=torch.float32)
    batch = exact.batch(*exact.RAGGED)
    found, wanted = compute_logps(half, batch)[0], compute_logps(full, batch)[0]
    assert found.dtype == torch.float32
    assert (found - wanted).abs().mean() < 0.02
    for a, b in zip(exact.gradients(half, (found,)), exact.gradients(full, (wanted,)), strict=True):
        assert a.dtype == torch.float32
        assert torch.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.98


def test_slices_add_up_in_the_masters_gradients() -> None:
    policy, batch = exact.policy(dtype=torch.bfloat16), exact.batch(*exact.RAGGED)
    policy.create_optimizer().zero_grad()
    for rows in ([0, 1], [2, 3]):
        compute_logps(policy, batch.select_rows(rows))[0].sum().backward()
    both = [p.grad.clone() for p in policy.parameters()]
    single = [torch.zeros_like(p) for p in policy.parameters()]
    for rows in ([0, 1], [2, 3]):
        policy.create_optimizer().zero_grad()
        compute_logps(policy, batch.select_rows(rows))[0].sum().backward()
        single = [a + p.grad for a, p in zip(single, policy.parameters(), strict=True)]
    assert exact.apart(both, single) == 0
    assert all(p.grad is None for p in policy.model.parameters())


def test_an_adapter_learns_and_only_it() -> None:
    policy = exact.policy(lora=Lora(rank=4))
    batch = exact.batch(*exact.RAGGED)
    theirs = exact.padded(policy, batch)
    wanted = exact.gradients(policy, theirs)
    ours = compute_logps(policy, batch, entropy=True)
    assert exact.apart(ours, theirs) <= 1e-10
    assert exact.apart(exact.gradients(policy, ours), wanted) <= 1e-10
    assert 0 < len(policy.parameters()) < sum(1 for _ in policy.model.parameters())


def test_logits_of_the_whole_vocabulary_never_exist() -> None:
    policy, batch = exact.policy(dtype=torch.float32), exact.batch((9,), ((40,) * 8,))
    seen = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.ndim == 2:
                seen.add(tuple(found.shape))
            return found

    compute_logps(policy, batch)
    with Watch():
        compute_logps(policy, batch, chunk=64 * 313)[0].sum().backward()
    assert (313, 64) in seen
    assert not [shape for shape in seen if min(shape) > 64]


def test_too_long_a_text_is_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"130 tokens, and .* reads 128 at most"):
        compute_logps(POLICY, exact.batch((120,), ((10,),)))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        compute_logps(POLICY, exact.batch((0,), ((3,),)))


def test_a_model_that_computes_more_than_attention_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    from edgewise.learner.policy.policy import Policy
    from tests.support.learner import tiny

    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4)
    policy = Policy.from_model(MambaForCausalLM(config), tiny.tokenizer())
    with pytest.raises(ModelError, match="can't be"):
        compute_logps(policy, exact.batch((3,), ((2,),)))


@pytest.mark.parametrize("temperature", (0.3, 1.0, 2.0))
def test_entropy_is_that_of_the_distribution(temperature: float) -> None:
    policy, batch = POLICY, exact.batch((3,), ((4,),))
    with torch.no_grad():
        _, spread = compute_logps(policy, batch, temperature=temperature, entropy=True)
        wanted = exact.padded(policy, batch, temperature)[1]
    assert exact.apart([spread], [wanted]) <= 1e-10
    assert bool((spread[batch.mask] <= math.log(300)).all())
