"""
Attention over prompts that replies share (Prefix Grouper, arXiv 2506.05433), for any model of transformers.

    prompt   Attn(Q_p, K_p, V_p), causal, once
    reply i  Attn(Q_i, [K_p; K_i], [V_p; V_i]), causal at the bottom right: a token sees its prompt and what it follows

Scores are computed in blocks and again in the backward, never kept: memory grows with the tokens, not their square.
They are plain batched products, which on CPUs beat the fused kernels at these sizes; keys are never repeated for GQA.

T tokens in the row, h heads on H key heads (h = H r), d wide; n, G, P, R of a bucket as in `learner.attention.sequence_packing`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgewise.learner.attention.sequence_packing import Block, Bucket, PackedLayout, causal_bias
from edgewise.learner.hardware.torch_compile import is_compiled
from edgewise.toolkit.errors import ModelError

NAME = "edgewise"
MAX_BLOCK_ROWS = 128
"""Rows of a block: half of its square of scores is wasted on what causality hides."""
SCORE_MULTIPLE = 32
"""Scores of a row are filled up to a multiple of this: softmax of bfloat16 is up to ten times slower else."""
MAX_SCORES = 1 << 21
"""The most scores of one block."""


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """What attention a layer has, beside its weights."""

    scale: float
    window: int | None = None
    softcap: float | None = None


def install_attention(model: Any) -> None:
    """Let a model's attention go through `attention`; without a layout it is what it was before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    usual = model.config._attn_implementation
    if usual.startswith(NAME):
        return
    name, ours = f"{NAME}_{usual}", partial(attention, usual=ALL_ATTENTION_FUNCTIONS.get(usual))
    if is_compiled(model):
        name, ours = f"{name}_compiled", torch.compiler.disable(ours)
    AttentionInterface.register(name, ours)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[usual])
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        raise ModelError(
            f"{type(model).__name__} has an attention of its own that can't share prompts."
        ) from error


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    usual: Callable[..., Any] | None = None,
    layout: PackedLayout | None = None,
    **options: Any,
) -> tuple[Tensor, Any]:
    """
    The function transformers calls: (1, h, T, d) and (1, H, T, d) twice -> (1, T, h, d).

    Without a layout it is `usual`, or the plain one of the module's own file.
    """
    if layout is None:
        plain = usual or sys.modules[type(module).__module__].eager_attention_forward
        return plain(module, query, key, value, attention_mask, **options)
    if any(options.get(name) is not None for name in ("s_aux", "position_bias")):
        raise ModelError(f"{type(module).__name__} adds to its scores what prompts can't be shared with.")
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    row = (x[0].transpose(0, 1) for x in (query, key, value))
    kind = AttentionKind(scale, options.get("sliding_window"), options.get("softcap"))
    return _Attention.apply(*row, layout, kind)[None], None


class _Attention(torch.autograd.Function):
    """(T, h, d), (T, H, d), (T, H, e) -> (T, h, e)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, kind: AttentionKind) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.layout, ctx.kind = layout, kind
        out = q.new_empty(*q.shape[:2], v.shape[2])
        for bucket in layout.buckets:
            for part in _parts(bucket, q, k, v, kind):
                part.block.pack(part.forward(), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        for bucket in ctx.layout.buckets:
            prompts, *replies = _parts(bucket, q, k, v, ctx.kind)
            extra = None
            for part in replies:
                extra = part.backward(grad_outputs[0], found)
            prompts.backward(grad_outputs[0], found, extra)
        return *found, None, None


def _parts(bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, kind: AttentionKind) -> list["_Part"]:
    """The prompts of a bucket, and its replies where any has more than one token."""
    prompts = _Part(bucket, bucket.prompts, kind, [bucket.prompts.unpack(x) for x in (q, k, v)])
    if not bucket.replies.size:
        return [prompts]
    own = [bucket.replies.unpack(x) for x in (q, k, v)]
    return [prompts, _Part(bucket, bucket.replies, kind, own, (prompts.keys, prompts.values))]


_Pair = tuple[Tensor, Tensor]


def _zeros(keys: Tensor, values: Tensor | None) -> _Pair:
    """Where gradients of keys and values are added up, in at least float32."""
    exact = torch.promote_types(keys.dtype, torch.float32)
    first, second = (torch.zeros_like(x, dtype=exact) for x in (keys, keys if values is None else values))
    return first, second


class _Part:
    """
    Attention of rows (n, G, R) over a context that the G share, if there is one, and over themselves.

    Keys (n, H, G, R, d); queries of rows a to b (n, H, G, b - a, r, d), so that the r heads of a key and the rows of a
    group are rows of one product.
    """

    def __init__(
        self,
        bucket: Bucket,
        block: Block,
        kind: AttentionKind,
        own: Sequence[Tensor],
        context: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.bucket, self.block, self.kind = bucket, block, kind
        q, k, v = own
        self.q = q.unflatten(3, (k.shape[3], -1))
        self.keys, self.values = (x.permute(0, 3, 1, 2, 4).contiguous() for x in (k, v))
        # (n H, P, d)
        self.context_keys, self.context_values = (
            (None, None) if context is None else (x.flatten(0, 2) for x in context)
        )

    @property
    def context(self) -> int:
        return 0 if self.context_keys is None else self.context_keys.shape[1]

    def spans(self) -> Iterator[tuple[int, int]]:
        """Rows a to b of each block."""
        n, g, rows, heads, r, _ = self.q.shape
        fits = MAX_SCORES // (n * g * heads * r * (self.context + rows))
        step = max(1, min(MAX_BLOCK_ROWS, fits))
        return ((a, min(a + step, rows)) for a in range(0, rows, step))

    def queries(self, a: int, b: int) -> Tensor:
        return (self.q[:, :, a:b] * self.kind.scale).permute(0, 3, 1, 2, 4, 5).contiguous()

    def chances(self, q: Tensor, a: int, b: int) -> tuple[Tensor, Tensor | None]:
        """Probabilities (n, H, G, b - a, r, P + b), and the slope of the soft cap where there is one."""
        scores = self._products(q, self.keys, self.context_keys, b)
        slope = None
        if self.kind.softcap is not None:
            bent = torch.tanh(scores / self.kind.softcap)
            scores, slope = bent * self.kind.softcap, 1 - bent * bent
        self._hide(scores, a, b)
        return torch.softmax(scores, -1), slope

    def _products(self, rows: Tensor, own: Tensor, context: Tensor | None, b: int) -> Tensor:
        """Of rows (n, H, G, b - a, r, d) with those of the context and b of their own: (..., P + b + unused)."""
        end = self.context + b
        found = rows.new_empty(*rows.shape[:5], -(-end // SCORE_MULTIPLE) * SCORE_MULTIPLE)
        found[..., end:] = 0
        if context is not None:
            shared = rows.view(len(context), -1, rows.shape[-1])
            torch.bmm(shared, context.mT, out=found.view(*shared.shape[:2], -1)[..., : self.context])
        mine = torch.matmul(rows.flatten(3, 4), own[:, :, :, :b].mT)
        found.flatten(3, 4)[..., self.context : end] = mine
        return found

    def _hide(self, scores: Tensor, a: int, b: int) -> None:
        window = self.kind.window
        first = 0 if window is not None else a
        end = self.context + b
        scores[..., self.context + first : end] += causal_bias(a, b, window, scores)[..., first:]
        scores[..., end:] = -torch.inf
        if self.context:
            bias = self.bucket.context_bias(a, b, window, scores)
            if bias is not None:
                scores[..., : self.context] += bias

    def forward(self) -> Tensor:
        """(n, G, R, h, e)."""
        n, g, rows, heads, r, _ = self.q.shape
        out = self.values.new_empty(n, g, rows, heads, r, self.values.shape[-1])
        for a, b in self.spans():
            chances, _ = self.chances(self.queries(a, b), a, b)
            found = self._weighed(chances, self.values, self.context_values, b)
            out[:, :, a:b] = found.permute(0, 2, 3, 1, 4, 5)
        return out.flatten(3, 4)

    def _weighed(self, weights: Tensor, own: Tensor, context: Tensor | None, b: int) -> Tensor:
        """The sum of own and context rows by weights (n, H, G, b - a, r, P + b)."""
        mine = weights[..., self.context : self.context + b]
        found = torch.matmul(mine.flatten(3, 4), own[:, :, :, :b])
        if context is None:
            return found.view(*weights.shape[:5], -1)
        shared = weights[..., : self.context].reshape(len(context), -1, self.context)
        both = torch.baddbmm(found.view(len(context), -1, found.shape[-1]), shared, context)
        return both.view(*weights.shape[:5], -1)

    def backward(self, grad: Tensor, found: Sequence[Tensor], extra: _Pair | None = None) -> _Pair | None:
        """
        Write the gradients of its rows into `found`, those of q, k and v; gives those of the context's keys and values.

        `extra` is what replies add to those of their prompts.
        """
        dout = self.block.unpack(grad).unflatten(3, self.q.shape[3:5])
        dq = torch.empty_like(self.q)
        own = _zeros(self.keys, self.values)
        shared = None if self.context_keys is None else _zeros(self.context_keys, self.context_values)
        for total, more in zip(own, extra or (), strict=False):
            total += more.view_as(total)
        for a, b in self.spans():
            q = self.queries(a, b)
            do = dout[:, :, a:b].permute(0, 3, 1, 2, 4, 5).contiguous()
            chances, slope = self.chances(q, a, b)
            dscores = self._dscores(do, chances, slope, b)
            pull = self._weighed(dscores, self.keys, self.context_keys, b)
            dq[:, :, a:b] = pull.permute(0, 2, 3, 1, 4, 5) * self.kind.scale
            for i, (weights, rows) in enumerate(((dscores, q), (chances, do))):
                mine = weights[..., self.context : self.context + b].flatten(3, 4)
                own[i][:, :, :, :b] += torch.matmul(mine.mT, rows.flatten(3, 4))
                if shared:
                    theirs = weights[..., : self.context].reshape(len(shared[i]), -1, self.context)
                    # This way round, for `theirs.mT` would be copied: its rows are parts of longer ones.
                    pulled = torch.bmm(rows.view(len(shared[i]), -1, rows.shape[-1]).mT, theirs)
                    shared[i].add_(pulled.mT)
        self.block.pack(dq.flatten(3, 4), found[0])
        for total, row in zip(own, found[1:], strict=True):
            self.block.pack(total.permute(0, 2, 3, 1, 4), row)
        return shared

    def _dscores(self, do: Tensor, chances: Tensor, slope: Tensor | None, b: int) -> Tensor:
        dchances = self._products(do, self.values, self.context_values, b)
        found = torch.ops.aten._softmax_backward_data(dchances, chances, -1, chances.dtype)
        return found if slope is None else found * slope
