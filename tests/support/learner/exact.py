"""Small random models of many families in float64, their padded forward, and ragged batches."""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
import transformers
from torch import Tensor

from edgewise.learner.methods.batch import Batch
from edgewise.learner.policy.policy import Policy
from tests.support.learner import tiny

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 5},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 6},
    "Granite": {"logits_scaling": 3.0, "attention_multiplier": 0.2},
    "Cohere": {"logit_scale": 0.3},
    "Phi": {"num_key_value_heads": 4},
}
HEADS = {"Gemma3Text": "Gemma3ForCausalLM"}


def policy(family: str = "Llama", dtype: torch.dtype = torch.float64, **options: Any) -> Policy:
    """A random policy of a family, whose norms are as exact as the rest of it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **FAMILIES[family]})
    model = getattr(transformers, HEADS.get(family, f"{family}ForCausalLM"))(config)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    if dtype == torch.float64:
        compute_norms_exactly(model)
    return Policy.from_model(model, tiny.tokenizer(), dtype=dtype, **options)


def compute_norms_exactly(model: torch.nn.Module) -> None:
    """RMSNorm in the precision of its input; transformers computes it in float32 whatever that is."""
    for part in model.modules():
        name = type(part).__name__
        if name.endswith("RMSNorm"):
            part.forward = MethodType(_norm(1.0 if name.startswith("Gemma") else 0.0), part)
        elif name == "CohereLayerNorm":
            part.forward = MethodType(_centred, part)


def _norm(shift: float) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, x: Tensor) -> Tensor:
        eps = getattr(self, "variance_epsilon", getattr(self, "eps", None))
        return (shift + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    return forward


def _centred(self: Any, x: Tensor) -> Tensor:
    away = x - x.mean(-1, keepdim=True)
    return self.weight * away * torch.rsqrt(away.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def batch(prompts: Sequence[int], groups: Sequence[Sequence[int]], seed: int = 1, vocab: int = 300) -> Batch:
    """Random prompts of these lengths, and behind each its replies of these lengths."""
    rng = torch.Generator().manual_seed(seed)

    def words(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, vocab, (count,), generator=rng).tolist())

    prompt_ids = [words(count) for count in prompts]
    rows = [(number, prompt_ids[number], words(size)) for number, own in enumerate(groups) for size in own]
    numbers, prompts_of_rows, replies = zip(*rows, strict=True)
    return Batch.from_lists(prompts_of_rows, replies, numbers, [(-1.0) ** i for i in range(len(rows))])


RAGGED = ((7, 5, 30, 5), ((3, 1, 9, 4), (4, 1), (1, 6, 17), (1,)))
"""Four prompts, one of which has a single reply of a single token."""


def compute_padded(policy: Policy, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """
    Log-probs and entropies as everybody computes them: a row of prompt and reply for each sequence.

    Padding is on the right, where causality hides it.
    """
    lengths = batch.lengths.tolist()
    rows = [[*p, *ids[:n]] for p, ids, n in zip(batch.prompts, batch.ids.tolist(), lengths, strict=True)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    logp = (policy.model(input_ids=ids).logits / temperature).log_softmax(-1)
    spread = -(logp.exp() * logp).sum(-1)
    logps, entropies = (torch.zeros(batch.ids.shape, dtype=logp.dtype), torch.zeros(batch.ids.shape, dtype=logp.dtype))
    for i, (prompt, count) in enumerate(zip(batch.prompts, lengths, strict=True)):
        at = slice(len(prompt) - 1, len(prompt) - 1 + count)
        logps[i, :count] = logp[i, at].gather(1, batch.ids[i, :count, None])[:, 0]
        entropies[i, :count] = spread[i, at]
    return logps, entropies


def compute_gradients(policy: Policy, values: Sequence[Tensor]) -> list[Tensor]:
    """Of a fixed random weighing of log-probs and entropies, for each parameter."""
    rng = torch.Generator().manual_seed(3)
    for parameter in policy.parameters():
        parameter.grad = None
    sum((x * torch.randn(x.shape, generator=rng, dtype=x.dtype)).sum() for x in values).backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in policy.parameters()]


def max_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference of any two values."""
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))
