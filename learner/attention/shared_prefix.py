"""
Attention in which replies share the keys and values of their prompt, for any model of transformers.

    prompt   Attn(Q_p, K_p, V_p), causal, once
    reply i  Attn(Q_i, [K_p; K_i], [V_p; V_i]), causal at the bottom right: a token sees its prompt and what it follows

The method is Prefix Grouper (arXiv 2506.05433). Scores are computed in blocks, and again in the backward, instead of
stored: memory grows with the tokens, not with their square. They are plain batched products, which on CPUs beat the
fused kernels at these sizes. Keys are never repeated for grouped queries.

Forward, for a block of rows with S = scale Q K^T, hidden entries at -inf:

    P = softmax(S)    O = P V

Backward, with . for the product entry by entry:

    dV = P^T dO    dP = dO V^T    dS = P . (dP - rowsum(dP . P))    dQ = scale dS K    dK = dS^T (scale Q)

With a soft cap S = c tanh(X / c), dX = dS . (1 - tanh^2(X / c)). Columns of P and dS fall into those of the prompt and
the reply's own, so each product is two. The prompt's keys are those of all G replies of the group:

    dK_p = sum over replies i of dS_i[:, :P]^T (scale Q_i)    + the prompt's attention to itself

and the sum is one product, since the queries of a group's replies are rows of one matrix.

Shapes: T tokens in the row, h heads of queries on H heads of keys (h = H r), d and e numbers a head in keys and values;
n, G, P, R of a bucket as in `learner.attention.sequence_packing`.
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
"""Most rows of a block. Half of a block's square of scores is hidden by causality, so larger ones waste more."""
SCORE_MULTIPLE = 32
"""Scores of a row are padded to a multiple of this: otherwise softmax in bfloat16 is up to ten times slower."""
MAX_SCORES = 1 << 21
"""Most scores of a block: 8 MB in float32."""


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """Settings of a layer's attention: `window` in tokens, `softcap` on scores, `sinks` [h] as in gpt-oss."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


def install_attention(model: Any) -> None:
    """
    Replace a model's attention by `attend_shared_prefix`, which without a layout calls the usual one.

    Raises ModelError for a model that transformers gives no such choice.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    usual = model.config._attn_implementation
    if usual.startswith(NAME):
        return
    name, ours = f"{NAME}_{usual}", partial(attend_shared_prefix, usual=ALL_ATTENTION_FUNCTIONS.get(usual))
    if is_compiled(model):
        name, ours = f"{name}_compiled", torch.compiler.disable(ours)
    AttentionInterface.register(name, ours)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[usual])
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        raise ModelError(f"{type(model).__name__} has an attention of its own that can't share prompts.") from error


def attend_shared_prefix(
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
    Return attention [1, T, h, d] of a packed row; query [1, h, T, d], key and value [1, H, T, d].

    transformers calls it for each layer. Without a layout it calls `usual`, or the eager attention of the module's own
    file.
    """
    if layout is None:
        plain = usual or sys.modules[type(module).__module__].eager_attention_forward
        return plain(module, query, key, value, attention_mask, **options)
    if any(options.get(name) is not None for name in ("s_aux", "position_bias")):
        raise ModelError(f"{type(module).__name__} adds to its scores what prompts can't be shared with.")
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    row = (x[0].transpose(0, 1) for x in (query, key, value))
    settings = AttentionOptions(scale, options.get("sliding_window"), options.get("softcap"))
    return _SharedPrefixAttention.apply(*row, layout, settings)[None], None


class _SharedPrefixAttention(torch.autograd.Function):
    """Attention of a packed row: q [T, h, d], k [T, H, d], v [T, H, e] -> [T, h, e]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, options: AttentionOptions) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.layout, ctx.options = layout, options
        out = q.new_empty(*q.shape[:2], v.shape[2])
        for bucket in layout.buckets:
            for part in _split_bucket(bucket, q, k, v, options):
                part.block.pack(part.forward(), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        for bucket in ctx.layout.buckets:
            prompts, *replies = _split_bucket(bucket, q, k, v, ctx.options)
            # Replies first: their gradients of the prompts' keys and values are part of what prompts write.
            context_grads = None
            for part in replies:
                context_grads = part.backward(grad_outputs[0], grads)
            prompts.backward(grad_outputs[0], grads, context_grads)
        return *grads, None, None


def _split_bucket(bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> list["_AttentionPart"]:
    """Return the prompts of a bucket, and its replies if any has more than one token."""
    own = [bucket.prompts.unpack(x) for x in (q, k, v)]
    prompts = _AttentionPart(bucket, bucket.prompts, options, own)
    if not bucket.replies.size:
        return [prompts]
    own = [bucket.replies.unpack(x) for x in (q, k, v)]
    return [prompts, _AttentionPart(bucket, bucket.replies, options, own, (prompts.keys, prompts.values))]


_Pair = tuple[Tensor, Tensor]


class _AttentionPart:
    """
    Attention of rows [n, G, R] over a context that the G share, if there is one, and over themselves.

    Keys are [n, H, G, R, d]. Queries of rows a to b are [n, H, G, b - a, r, d], so that the r heads of a key and the
    rows of a group are rows of one product. The context has P tokens: the prompt for replies, none for prompts.
    """

    def __init__(
        self,
        bucket: Bucket,
        block: Block,
        options: AttentionOptions,
        own: Sequence[Tensor],
        context: _Pair | None = None,
    ) -> None:
        self.bucket, self.block, self.options = bucket, block, options
        q, k, v = own
        self.q = q.unflatten(3, (k.shape[3], -1))  # [n, G, R, H, r, d]
        self.keys, self.values = (x.permute(0, 3, 1, 2, 4).contiguous() for x in (k, v))
        self.context_keys, self.context_values = (
            (None, None) if context is None else (x.flatten(0, 2) for x in context)
        )  # [n H, P, d], [n H, P, e]
        self.context = 0 if self.context_keys is None else self.context_keys.shape[1]  # P

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield rows a to b of each block."""
        n, g, rows, heads, r, _ = self.q.shape
        fits = MAX_SCORES // (n * g * heads * r * (self.context + rows))
        step = max(1, min(MAX_BLOCK_ROWS, fits))
        return ((a, min(a + step, rows)) for a in range(0, rows, step))

    def forward(self) -> Tensor:
        """Return the attention of all rows, [n, G, R, h, e]."""
        n, g, rows, heads, r, _ = self.q.shape
        out = self.values.new_empty(n, g, rows, heads, r, self.values.shape[-1])
        for a, b in self.spans():
            probabilities, _ = self._attend(self._queries(a, b), a, b)
            block = self._combine(probabilities, self.values, self.context_values, b)
            out[:, :, a:b] = block.permute(0, 2, 3, 1, 4, 5)
        return out.flatten(3, 4)

    def backward(self, grad: Tensor, grads: Sequence[Tensor], extra: _Pair | None = None) -> _Pair | None:
        """
        Write the gradients of own q, k and v into `grads`; return those of the context's keys and values.

        `grad` [T, h, e] is that of the output. `extra` is what replies add to the keys and values of their prompts.
        """
        dout = self.block.unpack(grad).unflatten(3, self.q.shape[3:5])  # [n, G, R, H, r, e]
        dq = torch.empty_like(self.q)
        # Sums over blocks, of keys and values, in at least float32.
        exact = torch.promote_types(self.keys.dtype, torch.float32)
        own = [torch.zeros_like(x, dtype=exact) for x in (self.keys, self.values)]
        shared = [torch.zeros_like(x, dtype=exact) for x in (self.context_keys, self.context_values) if x is not None]
        for total, more in zip(own, extra or (), strict=False):
            total += more.view_as(total)

        for a, b in self.spans():
            q = self._queries(a, b)  # scale Q
            do = dout[:, :, a:b].permute(0, 3, 1, 2, 4, 5).contiguous()
            probabilities, cap_slope = self._attend(q, a, b)

            # dS = P . (dP - rowsum(dP . P)), where dP = dO V^T is let go of at once
            ds = torch.ops.aten._softmax_backward_data(
                self._multiply(do, self.values, self.context_values, b), probabilities, -1, probabilities.dtype
            )
            ds = ds if cap_slope is None else ds * cap_slope
            # dQ = scale dS K
            pull = self._combine(ds, self.keys, self.context_keys, b)
            dq[:, :, a:b] = pull.permute(0, 2, 3, 1, 4, 5) * self.options.scale

            # dK = dS^T (scale Q) and dV = P^T dO: own columns, then those of the context.
            for i, (weights, rows) in enumerate(((ds, q), (probabilities, do))):
                mine = weights[..., self.context : self.context + b].flatten(3, 4)
                own[i][:, :, :, :b] += torch.matmul(mine.mT, rows.flatten(3, 4))
                if shared:
                    theirs = weights[..., : self.context].reshape(len(shared[i]), -1, self.context)
                    # (rows^T theirs)^T, because `theirs.mT` would be copied: its rows are parts of longer ones.
                    product = torch.bmm(rows.view(len(shared[i]), -1, rows.shape[-1]).mT, theirs)
                    shared[i].add_(product.mT)

        self.block.pack(dq.flatten(3, 4), grads[0])
        for total, row in zip(own, grads[1:], strict=True):
            self.block.pack(total.permute(0, 2, 3, 1, 4), row)
        return (shared[0], shared[1]) if shared else None

    def _queries(self, a: int, b: int) -> Tensor:
        """Return scale Q of rows a to b, [n, H, G, b - a, r, d]."""
        return (self.q[:, :, a:b] * self.options.scale).permute(0, 3, 1, 2, 4, 5).contiguous()

    def _attend(self, q: Tensor, a: int, b: int) -> tuple[Tensor, Tensor | None]:
        """Return P [n, H, G, b - a, r, P + b + padding], and the derivative of the soft cap if there is one."""
        scores = self._multiply(q, self.keys, self.context_keys, b)
        cap_slope = None
        if self.options.softcap is not None:
            tanh = torch.tanh(scores / self.options.softcap)
            scores, cap_slope = tanh * self.options.softcap, 1 - tanh * tanh

        # Without a window, own columns before a are visible to all rows of the block.
        window, end = self.options.window, self.context + b
        first = 0 if window is not None else a
        scores[..., self.context + first : end] += causal_bias(a, b, window, scores.dtype, scores.device)[..., first:]
        scores[..., end:] = -torch.inf
        if self.context:
            bias = self.bucket.context_bias(a, b, window, scores)
            if bias is not None:
                scores[..., : self.context] += bias
        return torch.softmax(scores, -1), cap_slope

    def _multiply(self, rows: Tensor, own: Tensor, context: Tensor | None, b: int) -> Tensor:
        """
        Return rows [context; own]^T, for rows [n, H, G, b - a, r, d] and b own ones: [..., P + b + padding].

            columns   0 .. P            P .. P + b     P + b ..
                      context, shared   own rows       0, up to a multiple of SCORE_MULTIPLE
                      one product for   one product
                      a prompt's G      for each of G
        """
        end = self.context + b
        scores = rows.new_empty(*rows.shape[:5], -(-end // SCORE_MULTIPLE) * SCORE_MULTIPLE)
        scores[..., end:] = 0
        if context is not None:
            shared = rows.view(len(context), -1, rows.shape[-1])  # [n H, G (b - a) r, d]
            torch.bmm(shared, context.mT, out=scores.view(*shared.shape[:2], -1)[..., : self.context])
        # [n, H, G, (b - a) r, b]
        scores.flatten(3, 4)[..., self.context : end] = torch.matmul(rows.flatten(3, 4), own[:, :, :, :b].mT)
        return scores

    def _combine(self, weights: Tensor, own: Tensor, context: Tensor | None, b: int) -> Tensor:
        """Return weights [context; own], the transpose of `_multiply`: [n, H, G, b - a, r, d]."""
        mine = weights[..., self.context : self.context + b]
        product = torch.matmul(mine.flatten(3, 4), own[:, :, :, :b])
        if context is None:
            return product.view(*weights.shape[:5], -1)
        shared = weights[..., : self.context].reshape(len(context), -1, self.context)
        both = torch.baddbmm(product.view(len(context), -1, product.shape[-1]), shared, context)
        return both.view(*weights.shape[:5], -1)
