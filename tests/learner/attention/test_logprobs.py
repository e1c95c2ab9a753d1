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
def test_values_and_gradients_equal_padded_rows(family: str) -> None:
    policy = exact.policy(family)
    batch = exact.batch(*exact.RAGGED)
    theirs = exact.compute_padded(policy, batch, 0.7)
    expected = exact.compute_gradients(policy, theirs)
    ours = compute_logps(policy, batch, temperature=0.7, entropy=True)
    bar = EXACT.get(family, 1e-10)
    assert exact.max_difference(ours, theirs) <= bar
    assert exact.max_difference(exact.compute_gradients(policy, ours), expected) <= bar * (1 if bar == 1e-10 else 100)


@pytest.mark.parametrize("rows", (1, 3, 16))
@pytest.mark.parametrize("scores", (1, 1 << 10))
def test_block_size_does_not_change_values_or_gradients(
    monkeypatch: pytest.MonkeyPatch, rows: int, scores: int
) -> None:
    policy, batch = exact.policy("Mistral"), exact.batch(*exact.RAGGED)
    whole = compute_logps(policy, batch, entropy=True)
    gradients = exact.compute_gradients(policy, whole)
    monkeypatch.setattr(shared_prefix, "MAX_BLOCK_ROWS", rows)
    monkeypatch.setattr(shared_prefix, "MAX_SCORES", scores)
    monkeypatch.setattr(layouts, "BUCKET_COST", 0)
    parts = compute_logps(policy, batch, entropy=True, chunk=64)
    assert exact.max_difference(parts, whole) <= 1e-12
    assert exact.max_difference(exact.compute_gradients(policy, parts), gradients) <= 1e-12


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 7), min_size=1, max_size=4)), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_any_order_and_lengths_equal_padded_rows(groups, random) -> None:
    policy = POLICY
    batch = exact.batch([p for p, _ in groups], [sizes for _, sizes in groups])
    order = list(range(len(batch)))
    random.shuffle(order)
    batch = batch.select_rows(order)
    if int(batch.lengths.sum()):
        with torch.no_grad():
            assert (
                exact.max_difference(compute_logps(policy, batch, entropy=True), exact.compute_padded(policy, batch))
                <= 1e-10
            )


POLICY = exact.policy("Qwen3")


def test_token_ids_behind_a_reply_change_nothing() -> None:
    batch = exact.batch(*exact.RAGGED)
    changed = Batch(batch.prompts, torch.where(batch.mask, batch.ids, 299), batch.mask, batch.group, batch.advantage)
    with torch.no_grad():
        clean, output = compute_logps(POLICY, batch)[0], compute_logps(POLICY, changed)[0]
    assert torch.equal(clean, output)
    assert not clean[~batch.mask].any()


def test_empty_replies_have_no_gradient() -> None:
    batch = exact.batch((4,), ((0, 0),))
    logp, spread = compute_logps(POLICY, batch, entropy=True)
    assert logp.shape == spread.shape == (2, 1)
    assert not any(g.any() for g in exact.compute_gradients(POLICY, (logp, spread)))


def attend(causal) -> tuple[torch.Tensor, torch.Tensor]:
    """Five tokens of a prompt and three of a reply: what `causal(q, k, v)` makes of the reply, and what is right."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, 2, 4, generator=rng, dtype=torch.float64).transpose(0, 1) for _ in range(3))
    return causal(q[:, 5:], k, v), sdpa(q, k, v, is_causal=True)[:, 5:]


def test_causal_mask_of_replies_is_aligned_bottom_right() -> None:
    output, expected = attend(lambda q, k, v: sdpa(q, k, v, is_causal=True))
    assert (output - expected).abs().max() > 0.1

    row = pack_sequences([(1,) * 5], torch.ones(1, 4, dtype=torch.long), [4], torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, 2, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    ours = shared_prefix._SharedPrefixAttention.apply(q, k, v, row, AttentionOptions(0.5)).transpose(0, 1)
    assert (ours[:, 5:] - expected).abs().max() <= 1e-14


def test_prompt_is_packed_once_and_last_tokens_are_left_out() -> None:
    row = pack_sequences([(1, 2, 3)] * 4, torch.ones(4, 6, dtype=torch.long), [6, 1, 2, 0], torch.device("cpu"))
    assert len(row.ids) == 3 + 5 + 0 + 1
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 3]
    assert len(row.targets) == 9 and len(row.sources) == 7


def test_checkpointing_changes_no_gradient() -> None:
    batch = exact.batch(*exact.RAGGED)
    output = [
        exact.compute_gradients(policy, (compute_logps(policy, batch)[0],))
        for policy in (exact.policy("Mistral"), exact.policy("Mistral", checkpointing=True))
    ]
    assert exact.max_difference(*output) == 0
    assert not exact.policy("Mistral", checkpointing=True).model.training


def test_bfloat16_is_close_and_its_gradients_are_float32() -> None:
    half, full = exact.policy(dtype=torch.bfloat16), exact.policy(dtype=torch.float32)
    batch = exact.batch(*exact.RAGGED)
    output, expected = compute_logps(half, batch)[0], compute_logps(full, batch)[0]
    assert output.dtype == torch.float32
    assert (output - expected).abs().mean() < 0.02
    for a, b in zip(exact.compute_gradients(half, (output,)), exact.compute_gradients(full, (expected,)), strict=True):
        assert a.dtype == torch.float32
        assert torch.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.98


def test_gradients_of_slices_add_up_in_the_masters() -> None:
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
    assert exact.max_difference(both, single) == 0
    assert all(p.grad is None for p in policy.model.parameters())


def test_only_the_adapter_gets_gradients() -> None:
    policy = exact.policy(lora=Lora(rank=4))
    batch = exact.batch(*exact.RAGGED)
    theirs = exact.compute_padded(policy, batch)
    expected = exact.compute_gradients(policy, theirs)
    ours = compute_logps(policy, batch, entropy=True)
    assert exact.max_difference(ours, theirs) <= 1e-10
    assert exact.max_difference(exact.compute_gradients(policy, ours), expected) <= 1e-10
    assert 0 < len(policy.parameters()) < sum(1 for _ in policy.model.parameters())


def test_full_vocabulary_logits_never_exist() -> None:
    policy, batch = exact.policy(dtype=torch.float32), exact.batch((9,), ((40,) * 8,))
    shapes = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            if isinstance(output, torch.Tensor) and output.ndim == 2:
                shapes.add(tuple(output.shape))
            return output

    compute_logps(policy, batch)
    with Watch():
        compute_logps(policy, batch, chunk=64 * 313)[0].sum().backward()
    assert (313, 64) in shapes
    assert not [shape for shape in shapes if min(shape) > 64]


def test_too_long_a_sequence_raises_model_error() -> None:
    with pytest.raises(ModelError, match=r"130 tokens, and .* reads 128 at most"):
        compute_logps(POLICY, exact.batch((120,), ((10,),)))


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        compute_logps(POLICY, exact.batch((0,), ((3,),)))


def test_model_without_plain_attention_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    from edgewise.learner.policy.policy import Policy
    from tests.support.learner import tiny

    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4)
    policy = Policy.from_model(MambaForCausalLM(config), tiny.tokenizer())
    with pytest.raises(ModelError, match="can't be"):
        compute_logps(policy, exact.batch((3,), ((2,),)))


@pytest.mark.parametrize("temperature", (0.3, 1.0, 2.0))
def test_entropy_equals_that_of_the_distribution(temperature: float) -> None:
    policy, batch = POLICY, exact.batch((3,), ((4,),))
    with torch.no_grad():
        _, spread = compute_logps(policy, batch, temperature=temperature, entropy=True)
        expected = exact.compute_padded(policy, batch, temperature)[1]
    assert exact.max_difference([spread], [expected]) <= 1e-10
    assert bool((spread[batch.mask] <= math.log(300)).all())
