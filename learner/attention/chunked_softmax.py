"""
Log-probabilities of tokens from hidden states, with the logits of one chunk of the vocabulary at a time.

Nothing of the size [tokens, vocabulary] ever exists. The backward computes each chunk of logits again, so that a chunk
of the weights' gradient is written once.

Shapes: U states of width H, V words, C words of a chunk, N tokens to score; several may be predicted from one state.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = 1 << 21
"""Logits of a chunk: 8 MB in float32, which stay in a CPU's caches."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """Function from products x = h W^T + b to logits: softcap * tanh(scale * x / softcap) / temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def apply_inplace(self, x: Tensor) -> Tensor:
        """Return the logits of products, in the memory of these."""
        x = x.mul_(self.scale) if self.scale != 1.0 else x
        x = x.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else x
        return x.div_(self.temperature) if self.temperature != 1.0 else x

    def derivative(self, logits: Tensor) -> Tensor | float:
        """Return d logit / d product from the logits, which have the shape of the result unless it is constant."""
        # tanh' = 1 - tanh^2, and tanh is logit * temperature / softcap.
        slope = 1 - (logits * (self.temperature / self.softcap)) ** 2 if self.softcap else 1.0
        return slope * (self.scale / self.temperature)


def score_tokens(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    targets: Tensor,
    transform: LogitTransform,
    *,
    entropy: bool = False,
    chunk: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor | None]:
    """
    Return log-probabilities of `targets` [N] given `states[rows]`, and entropies [N] if wanted, both with gradients.

    `states` [U, H], `weight` [V, H], `bias` [V], `rows` [N]. `chunk` is about the number of logits held at once.
    """
    logp, entropies = _ScoreTokens.apply(states, weight, bias, rows, targets, transform, entropy, chunk)
    return logp, entropies[rows] if entropy else None


class _ScoreTokens(torch.autograd.Function):
    """
    Log-probabilities [N] and entropies [U] (empty if not wanted), in float32 or float64.

    Forward, an online softmax (arXiv 1805.02867). With the running maximum m of the logits z seen so far,

        s = sum e^(z - m)    t = sum e^(z - m) (z - m)

    and a chunk that raises the maximum from m to m', what was summed before becomes

        s <- s e^(m - m')    t <- (t + (m - m') s) e^(m - m')

    At the end log Z = m + log s, log p_y = z_y - log Z, and the entropy is H = log s - t / s.

    Backward. With [y = v] for 1 where v is the target, else 0,

        d log p_y / d z_v = [y = v] - p_v        d H / d z_v = - p_v (log p_v + H)

    so for g_n, the gradient of token n, and G_u = sum of g_n over the tokens of state u,

        dz_uv = sum of g_n over tokens of u with target v - G_u p_uv - dH_u p_uv (log p_uv + H_u)

    then dh = dz W, dW = dz^T h, db = sum of dz over states, with dz times the transform's derivative before.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        targets: Tensor,
        transform: LogitTransform,
        entropy: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(states.dtype, torch.float32)
        target_logits = torch.empty(len(rows), dtype=exact, device=states.device)  # [N]
        top = torch.full((len(states),), -torch.inf, dtype=exact, device=states.device)  # [U] m
        total, moment = torch.zeros_like(top), torch.zeros_like(top)  # [U] s, t

        for a, b in _chunks(states, weight, chunk):
            logits = transform.apply_inplace(_multiply(states, weight, bias, a, b))  # [U, C]
            inside = (targets >= a) & (targets < b)
            target_logits[inside] = logits[rows[inside], targets[inside] - a]

            new = torch.maximum(top, logits.amax(1))
            logits -= new[:, None]
            shrink = (top - new).exp_()  # 0 at the first chunk, where m is -inf
            if entropy:
                moment = (moment + torch.where(total > 0, (top - new) * total, 0.0)) * shrink
                part = logits.exp()
                moment += (part * logits).sum(1)
            else:
                part = logits.exp_()
            total = total * shrink + part.sum(1)
            top = new

        norm = top + total.log()  # [U] log Z
        entropies = total.log() - moment / total if entropy else norm.new_empty(0)
        ctx.save_for_backward(states, weight, bias, rows, targets, norm, entropies)
        ctx.transform, ctx.chunk = transform, chunk
        return target_logits - norm[rows], entropies

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad, entropy_grad = grad_outputs  # [N] g, [U] dH
        states, weight, bias, rows, targets, norm, entropies = ctx.saved_tensors
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        pull = torch.zeros_like(norm).index_add_(0, rows, grad)  # [U] G
        dstates = torch.zeros(states.shape, dtype=norm.dtype, device=states.device) if wants_states else None
        dweight = torch.empty_like(weight) if wants_weight else None
        dbias = torch.empty_like(bias) if wants_bias else None

        for a, b in _chunks(states, weight, ctx.chunk):
            logits = ctx.transform.apply_inplace(_multiply(states, weight, bias, a, b))  # [U, C]
            slope = ctx.transform.derivative(logits)
            logits -= norm[:, None]  # log p

            # dz: first what all words of a state get, then the targets' own gradients.
            if len(entropies):
                push = -(logits + entropies[:, None]) * entropy_grad[:, None] - pull[:, None]
                dlogits = logits.exp_().mul_(push)
            else:
                dlogits = logits.exp_().mul_(-pull[:, None])
            inside = (targets >= a) & (targets < b)
            dlogits.index_put_((rows[inside], targets[inside] - a), grad[inside], accumulate=True)
            dlogits = dlogits.mul_(slope) if isinstance(slope, Tensor) or slope != 1.0 else dlogits

            # The weights of each chunk are touched once; states gather the sum over chunks in float32.
            if dbias is not None:
                dbias[a:b] = dlogits.sum(0)
            dlogits = dlogits.to(weight.dtype)
            if dstates is not None:
                dstates += dlogits @ weight[a:b]
            if dweight is not None:
                torch.mm(dlogits.t(), states, out=dweight[a:b])
        return None if dstates is None else dstates.to(states.dtype), dweight, dbias, *[None] * 5


def _chunks(states: Tensor, weight: Tensor, chunk: int) -> Iterator[tuple[int, int]]:
    """Yield words a to b of each chunk: a multiple of 64 words, and about `chunk` logits for all states."""
    step = min(len(weight), max(64, chunk // max(1, len(states)) // 64 * 64))
    return ((a, min(a + step, len(weight))) for a in range(0, len(weight), step))


def _multiply(states: Tensor, weight: Tensor, bias: Tensor | None, a: int, b: int) -> Tensor:
    """Return the products of states with words a to b, [U, C], in float32 or float64."""
    part = torch.nn.functional.linear(states, weight[a:b], None if bias is None else bias[a:b])
    return part.float() if part.dtype in (torch.bfloat16, torch.float16) else part
