"""
Log-probabilities of a slice's replies, each prompt encoded once for all its replies, in forward and in backward.

The gradient is the same as that of one padded row for each reply (Prefix Grouper, arXiv 2506.05433, lemma 2.1): the
layout only leaves out what would be computed again. See `learner.attention.sequence_packing`, `learner.attention.shared_prefix` and `learner.attention.chunked_softmax`.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from edgewise.learner.attention import chunked_softmax, shared_prefix
from edgewise.learner.attention.chunked_softmax import LogitTransform, score_tokens
from edgewise.learner.attention.sequence_packing import PackedLayout, pack_sequences
from edgewise.learner.methods.batch import Batch
from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.errors import ModelError

_checked: "WeakSet[Any]" = WeakSet()
"""Models whose log-probs were compared once with their own."""


def compute_logps(
    policy: Policy,
    batch: Batch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int = chunked_softmax.CHUNK_LOGITS,
) -> tuple[Tensor, Tensor | None]:
    """
    (b, T) log-probs of all tokens of the replies at that temperature, 0 behind their ends, with a gradient.

    With `entropy` also (b, T) that of the distribution of each token, with a gradient too. Float32, or float64 where
    the policy is. Inside `policy.reference()` they are the reference model's.
    """
    lengths = _lengths(batch.mask)
    row = pack_sequences(batch.prompts, batch.ids, lengths, policy.device)
    _fits(policy, row)
    shape = tuple(batch.ids.shape)
    model = _bare(policy.model)
    shared_prefix.install_attention(model)
    if model not in _checked:
        policy.run_forward(partial(_check, model, policy))
    given = row if len(row.ids) else pack_sequences([(0,)], torch.zeros(1, 1, dtype=torch.long), [1], policy.device)
    work = partial(_scored, model, given, temperature, entropy, chunk, policy.checkpointing)
    logp, spread = policy.run_forward(work)
    if given is not row:
        # Where weights are shared out the others wait for a forward of this process, and for a backward.
        nothing = logp.sum() * 0.0 + logp.new_zeros(shape)
        return nothing, nothing if entropy else None
    return _placed(logp, row, shape), None if spread is None else _placed(spread, row, shape)


def _scored(
    model: Any, row: PackedLayout, temperature: float, entropy: bool, chunk: int, checkpointing: bool
) -> tuple[Tensor, Tensor | None]:
    """(N,) log-probs and entropies of the tokens of a row."""
    states = _states(model, row, checkpointing).index_select(0, row.sources)
    out = model.get_output_embeddings()
    told = _head(model, temperature)
    return score_tokens(states, out.weight, out.bias, row.rows, row.targets, told, entropy=entropy, chunk=chunk)


def _check(model: Any, policy: Policy) -> None:
    """Whether a model's log-probs come out right this way: once, on a few tokens. ModelError if they do not."""
    bar = 0.1 if policy.dtype == torch.bfloat16 else 1e-3
    try:
        off = _off(model, policy.device)
    except (TypeError, ValueError, AttributeError, IndexError) as error:  # it was not written to be asked so
        raise ModelError(_unshared(model)) from error
    if not off <= bar:
        raise ModelError(_unshared(model))
    _checked.add(model)


def _unshared(model: Any) -> str:
    return (
        f"{type(model).__name__} computes more from a text than its attention and a softmax over its last layer, so "
        "that replies can't share a prompt: it can't be trained here."
    )


@torch.no_grad()
def _off(model: Any, device: torch.device) -> float:
    """How far our log-probs of two short replies are from those of the model's own logits, relative to these."""
    words = torch.arange(12) % model.config.get_text_config().vocab_size
    prompts, replies = [tuple(words[:5].tolist())] * 2, torch.stack((words[5:8], words[9:12]))
    row = pack_sequences(prompts, replies, [3, 3], device)
    ours = _scored(model, row, 1.0, False, chunked_softmax.CHUNK_LOGITS, False)[0]
    ids = torch.cat((words[:5].expand(2, -1), replies), 1).to(device)
    logits = model(input_ids=ids, use_cache=False).logits[:, 4:-1].to(ours.dtype)
    plain = logits.log_softmax(-1).gather(2, ids[:, 5:, None]).flatten()
    return float((ours - plain).abs().sum() / plain.abs().sum())


def _lengths(mask: Tensor) -> list[int]:
    """Up to the last token that counts."""
    at = torch.arange(1, mask.shape[1] + 1)
    return (mask * at).amax(1).tolist() if mask.numel() else [0] * len(mask)


def _fits(policy: Policy, row: PackedLayout) -> None:
    if row.longest >= policy.context_length:
        raise ModelError(
            f"A prompt and its reply are {row.longest + 1} tokens, and {policy.name} reads {policy.context_length} at most."
        )


def _bare(model: Any) -> Any:
    """The model inside of an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _states(model: Any, row: PackedLayout, checkpointing: bool) -> Tensor:
    """(T, H) the last hidden states."""
    # A mask of four dimensions is passed on as it is; attention makes its own.
    unused = torch.zeros(1, 1, 1, 1, device=row.ids.device)
    with _recomputed(model) if checkpointing else contextlib.nullcontext():
        found = model.get_decoder()(
            input_ids=row.ids[None],
            position_ids=row.positions[None],
            attention_mask=unused,
            use_cache=False,
            layout=row,
        )
    return found.last_hidden_state[0]


@contextlib.contextmanager
def _recomputed(model: Any) -> Iterator[None]:
    """Activations are only recomputed in training mode, which changes nothing else: dropout is 0."""
    model.train(torch.is_grad_enabled())
    try:
        yield
    finally:
        model.eval()


def _head(model: Any, temperature: float) -> LogitTransform:
    """What models do to their logits, by the names their configurations give it."""
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return LogitTransform(scale, getattr(config, "final_logit_softcapping", None), temperature)


def _placed(values: Tensor, row: PackedLayout, shape: tuple[int, ...]) -> Tensor:
    return values.new_zeros(shape).flatten().index_copy(0, row.places, values).view(shape)
