"""
Log-probabilities of tokens from hidden states, without the logits of more than a part of the vocabulary at a time.

logits = cap tanh(scale h W^T / cap) / temperature; logp = logit - log sum exp. The backward computes each part again,
so that a part of W's gradient is written once and nothing of the size (tokens, vocabulary) ever exists.

U states of width H, V words, N tokens to be scored: several may be predicted from one state.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = 1 << 21
"""Logits of a part: they stay in a CPU's caches."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What stands between hidden states and the softmax, beside the weights."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def apply_inplace(self, x: Tensor) -> Tensor:
        """Of the product with the weights, in place."""
        x = x.mul_(self.scale) if self.scale != 1.0 else x
        x = x.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else x
        return x.div_(self.temperature) if self.temperature != 1.0 else x

    def derivative(self, logits: Tensor) -> Tensor | float:
        """The derivative of `logits`, from their values."""
        bent = 1 - (logits * (self.temperature / self.softcap)) ** 2 if self.softcap else 1.0
        return bent * (self.scale / self.temperature)


def score_tokens(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    targets: Tensor,
    head: LogitTransform,
    *,
    entropy: bool = False,
    chunk: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor | None]:
    """
    (N,) log-probs of `targets` given the states (U, H) that `rows` name, and (N,) entropies; both have gradients.

    `chunk` is about how many logits are held at once.
    """
    logp, spread = _Scored.apply(states, weight, bias, rows, targets, head, entropy, chunk)
    return logp, spread[rows] if entropy else None


class _Scored(torch.autograd.Function):
    """-> (N,) log-probs and (U,) entropies (empty if not wanted), in float32 or float64."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        targets: Tensor,
        head: LogitTransform,
        entropy: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(states.dtype, torch.float32)
        chosen = torch.empty(len(rows), dtype=exact, device=states.device)
        top = torch.full((len(states),), -torch.inf, dtype=exact, device=states.device)
        total, moment = torch.zeros_like(top), torch.zeros_like(top)
        for a, b in _parts(states, weight, chunk):
            logits = head.apply_inplace(_product(states, weight, bias, a, b))
            _choose(chosen, logits, rows, targets, a)
            new = torch.maximum(top, logits.amax(1))
            logits -= new[:, None]
            shrink = (top - new).exp_()
            # E[logit - top]: what was summed before is moved to the new top.
            if entropy:
                moment = (moment + torch.where(total > 0, (top - new) * total, 0.0)) * shrink
                part = logits.exp()
                moment += (part * logits).sum(1)
            else:
                part = logits.exp_()
            total = total * shrink + part.sum(1)
            top = new
        norm = top + total.log()
        spread = total.log() - moment / total if entropy else norm.new_empty(0)
        ctx.save_for_backward(states, weight, bias, rows, targets, norm, spread)
        ctx.head, ctx.chunk = head, chunk
        return chosen - norm[rows], spread

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad, spread_grad = grad_outputs
        states, weight, bias, rows, targets, norm, spread = ctx.saved_tensors
        head, chunk = ctx.head, ctx.chunk
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        pull = torch.zeros_like(norm).index_add_(0, rows, grad)
        found = torch.zeros(states.shape, dtype=norm.dtype, device=states.device) if wants_states else None
        dweight = torch.empty_like(weight) if wants_weight else None
        dbias = torch.empty_like(bias) if wants_bias else None
        for a, b in _parts(states, weight, chunk):
            logits = head.apply_inplace(_product(states, weight, bias, a, b))
            slope = head.derivative(logits)
            logits -= norm[:, None]
            if len(spread):
                # d entropy / d logit = - p (log p + entropy)
                push = -(logits + spread[:, None]) * spread_grad[:, None] - pull[:, None]
                dlogits = logits.exp_().mul_(push)
            else:
                dlogits = logits.exp_().mul_(-pull[:, None])
            inside = (targets >= a) & (targets < b)
            dlogits.index_put_((rows[inside], targets[inside] - a), grad[inside], accumulate=True)
            dlogits = dlogits.mul_(slope) if isinstance(slope, Tensor) or slope != 1.0 else dlogits
            if dbias is not None:
                dbias[a:b] = dlogits.sum(0)
            dlogits = dlogits.to(weight.dtype)
            if found is not None:
                found += dlogits @ weight[a:b]
            if dweight is not None:
                torch.mm(dlogits.t(), states, out=dweight[a:b])
        dstates = None if found is None else found.to(states.dtype)
        return dstates, dweight, dbias, None, None, None, None, None


def _parts(states: Tensor, weight: Tensor, chunk: int) -> Iterator[tuple[int, int]]:
    """Words a to b of each part."""
    step = min(len(weight), max(64, chunk // max(1, len(states)) // 64 * 64))
    return ((a, min(a + step, len(weight))) for a in range(0, len(weight), step))


def _product(states: Tensor, weight: Tensor, bias: Tensor | None, a: int, b: int) -> Tensor:
    """(U, b - a) in float32 or float64."""
    part = torch.nn.functional.linear(states, weight[a:b], None if bias is None else bias[a:b])
    return part.float() if part.dtype in (torch.bfloat16, torch.float16) else part


def _choose(chosen: Tensor, logits: Tensor, rows: Tensor, targets: Tensor, a: int) -> None:
    inside = (targets >= a) & (targets < a + logits.shape[1])
    chosen[inside] = logits[rows[inside], targets[inside] - a]
