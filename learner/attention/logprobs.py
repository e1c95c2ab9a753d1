"""
Log-probabilities of a slice's replies, each prompt encoded once for all its replies, in forward and in backward.

The gradient is that of one padded row for each reply (Prefix Grouper, arXiv 2506.05433, lemma 2.1): packing only leaves
out what would be computed again. `sequence_packing` makes the row, `shared_prefix` attends, and `chunked_softmax` is
the head.

Shapes: b replies in the slice of up to T' tokens, T tokens in the packed row, N tokens of replies, H the hidden width.
"""

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
"""Models whose log-probabilities were compared with their own logits, once a process."""


def compute_logps(
    policy: Policy,
    batch: Batch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int = chunked_softmax.CHUNK_LOGITS,
) -> tuple[Tensor, Tensor | None]:
    """
    Return log-probabilities [b, T'] of all tokens of the replies, 0 behind their ends, with a gradient.

    With `entropy` also the entropy of the distribution of each token, [b, T'], with a gradient. Both are float32, or
    float64 if the policy is. Inside `policy.reference()` they are the reference model's. Raises ModelError for a model
    that can't share prompts, and for sequences longer than its context.
    """
    # A reply ends with the last token that counts; the mask may have gaps.
    ends = (batch.mask * torch.arange(1, batch.mask.shape[1] + 1)).amax(1).tolist() if batch.mask.numel() else []
    ends = ends or [0] * len(batch)
    layout = pack_sequences(batch.prompts, batch.ids, ends, policy.device)
    if layout.longest >= policy.context_length:
        raise ModelError(
            f"A prompt and its reply are {layout.longest + 1} tokens, and {policy.name} reads "
            f"{policy.context_length} at most."
        )

    model = policy.model
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside of an adapter
    shared_prefix.install_attention(model)
    if model not in _checked:
        policy.run_forward(partial(_check_model, model, policy))

    # Where weights are sharded, other processes wait for a forward and a backward of this one, even without tokens.
    is_empty = not len(layout.ids)
    if is_empty:
        layout = pack_sequences([(0,)], torch.zeros(1, 1, dtype=torch.long), [1], policy.device)
    work = partial(_score_row, model, layout, temperature, entropy, chunk, policy.checkpointing)
    logp, entropies = policy.run_forward(work)

    shape = tuple(batch.ids.shape)
    if is_empty:
        nothing = logp.sum() * 0.0 + logp.new_zeros(shape)
        return nothing, nothing if entropy else None

    def place(values: Tensor) -> Tensor:
        """Return values [N] as [b, T']."""
        return values.new_zeros(shape).flatten().index_copy(0, layout.places, values).view(shape)

    return place(logp), None if entropies is None else place(entropies)


def _score_row(
    model: Any, layout: PackedLayout, temperature: float, entropy: bool, chunk: int, checkpointing: bool
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities and entropies [N] of the tokens of a packed row."""
    # Activations are recomputed in training mode only, which changes nothing else: dropout is 0.
    if checkpointing:
        model.train(torch.is_grad_enabled())
    try:
        states = model.get_decoder()(
            input_ids=layout.ids[None],
            position_ids=layout.positions[None],
            # transformers passes a mask of four dimensions on as it is; attention makes its own.
            attention_mask=torch.zeros(1, 1, 1, 1, device=layout.ids.device),
            use_cache=False,
            layout=layout,
        ).last_hidden_state[0]  # [T, H]
    finally:
        if checkpointing:
            model.eval()
    states = states.index_select(0, layout.sources)  # [U, H]

    # Models transform their logits by settings of several names.
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    transform = LogitTransform(scale, getattr(config, "final_logit_softcapping", None), temperature)
    head = model.get_output_embeddings()
    return score_tokens(
        states, head.weight, head.bias, layout.source_of, layout.targets, transform, entropy=entropy, chunk=chunk
    )


@torch.no_grad()
def _check_model(model: Any, policy: Policy) -> None:
    """Compare log-probabilities of two short replies with the model's own logits; raise ModelError if they differ."""
    refusal = (
        f"{type(model).__name__} computes more from a text than its attention and a softmax over its last layer, so "
        "that replies can't share a prompt: it can't be trained here."
    )
    words = torch.arange(12) % model.config.get_text_config().vocab_size
    prompts, replies = [tuple(words[:5].tolist())] * 2, torch.stack((words[5:8], words[9:12]))
    try:
        layout = pack_sequences(prompts, replies, [3, 3], policy.device)
        ours = _score_row(model, layout, 1.0, False, chunked_softmax.CHUNK_LOGITS, False)[0]
        ids = torch.cat((words[:5].expand(2, -1), replies), 1).to(policy.device)
        logits = model(input_ids=ids, use_cache=False).logits[:, 4:-1].to(ours.dtype)
        theirs = logits.log_softmax(-1).gather(2, ids[:, 5:, None]).flatten()
        difference = float((ours - theirs).abs().sum() / theirs.abs().sum())
    except (TypeError, ValueError, AttributeError, IndexError) as error:  # a forward with other arguments
        raise ModelError(refusal) from error
    if not difference <= (0.1 if policy.dtype == torch.bfloat16 else 1e-3):  # NaN fails as well
        raise ModelError(refusal)
    _checked.add(model)
