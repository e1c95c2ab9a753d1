"""
The update: weights of tokens are fixed on the whole batch, slices save memory, gradients are summed.

B sequences in a batch, b in a slice, T tokens of the longest reply.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from edgewise.learner.attention.logprobs import compute_logps
from edgewise.learner.hardware.memory import MEMORY_ADVICE, try_in_memory
from edgewise.learner.hardware.process_group import SINGLE_PROCESS, ProcessGroup, fail_together
from edgewise.learner.methods.batch import Batch, LossInputs, split_into_slices
from edgewise.learner.methods.batch_statistics import required_statistics, add_statistics
from edgewise.learner.methods.method import Method, compute_losses
from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.errors import OutOfMemory

LEAST = 64
"""Tokens of the smallest slice that is tried where memory is short."""


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """
    How an update is carried out, whatever the method; nothing of it changes the gradient but `correction` and `clip`.

    `temperature` is that of sampling. `tokens` are those of a slice. `clip` is the largest norm of the gradient.
    `correction` caps the weights exp(old_logp - sampler_logp) that undo what a sampler's numbers differ in
    (truncated importance sampling); None for none.
    """

    temperature: float = 1.0
    tokens: int = 8192
    clip: float = 1.0
    correction: float | None = None


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """
    What an update saw, over the tokens of its batch.

    `loss` is the sum of weights times values, the mean of all passes. `kl` is the mean of r - 1 - log r, r the ratio to
    the policy before the update, `ratio` the mean |r - 1| of the first optimizer step, which must be rounding.
    `mismatch` is the mean |log-probability here - the sampler's|. `norm` is that of the last gradient, before
    clipping. `tokens` is the size of slices that memory allowed.
    """

    loss: float = 0.0
    kl: float = 0.0
    ratio: float = 0.0
    mismatch: float = 0.0
    norm: float = 0.0
    steps: int = 0
    tokens: int = 0


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    method: Method,
    batch: Batch,
    how: UpdateConfig,
    rng: torch.Generator,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> UpdateStats:
    """
    Carry out a method's epochs and minibatches on a batch. Raises OutOfMemory where one sequence alone is too much.

    A step whose gradient is not finite is left out.
    """
    batch, tokens = _prepared(policy, method, batch, how, ranks)
    sums = torch.zeros(4, dtype=torch.float64)
    norm, steps = 0.0, 0
    first: tuple[Tensor, Batch] | None = None
    for rows in _minibatches(batch, method, rng):
        part = batch.select_rows(rows)
        optimizer.zero_grad(set_to_none=True)
        part, tokens = _measured(policy, method, part, replace(how, tokens=tokens), ranks)
        found, tokens = _accumulated(policy, method, part, replace(how, tokens=tokens), ranks)
        first = (found, part) if first is None else first
        sums += found
        norm = policy.clip_gradients(how.clip)
        if math.isfinite(norm) and norm > 0:
            optimizer.step()
            steps += 1
    if first is None:
        return UpdateStats(tokens=tokens)
    count = max(1.0, float(batch.mask.sum()) * method.epochs)
    return UpdateStats(
        loss=float(sums[0]) / method.epochs,
        kl=float(sums[1]) / count,
        ratio=float(first[0][3]) / max(1.0, float(first[1].mask.sum())),
        mismatch=float(sums[2]) / count,
        norm=norm,
        steps=steps,
        tokens=tokens,
    )


def gradient(policy: Policy, method: Method, batch: Batch, how: UpdateConfig, ranks: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """Add the gradient of one optimizer step to the parameters' `grad`; (4,) the sums that `UpdateStats` is made of."""
    weights = method.weigh(batch)
    sums = torch.zeros(4, dtype=torch.float64)
    for rows in _shared(policy, batch, how.tokens, ranks, whole_groups=method.needs_whole_groups):
        if rows:
            sums += _one(policy, method, batch.select_rows(rows), weights[rows], how)
        else:
            compute_logps(policy, batch.select_rows(rows))[0].sum().backward()
    return sums


def _shared(
    policy: Policy, batch: Batch, size: int, ranks: ProcessGroup, *, whole_groups: bool = False
) -> Sequence[list[int]]:
    """
    The rows of each slice of this process; slices are as small as it takes for every process to have about one.

    Where weights are shared out all have equally many: some may end with one without rows.
    """
    if ranks.size > 1:
        whole = sum(map(len, set(batch.prompts))) + int(batch.mask.sum())
        size = min(size, whole // ranks.size + int(batch.lengths.max()))
    found = list(split_into_slices(batch, size, whole_groups=whole_groups))
    return ranks.shard([*found, *[[]] * (-len(found) % ranks.size)] if policy.is_sharded else found)


def _one(policy: Policy, method: Method, part: Batch, weights: Tensor, how: UpdateConfig) -> Tensor:
    """Backward through a slice: (4,) its loss, and sums over tokens of KL, sampler's mismatch and |r - 1|."""
    logp, entropy = compute_logps(policy, part, temperature=how.temperature, entropy="entropy" in method.required_columns)
    x = tokens(part, logp, entropy)
    found = compute_losses(method, x)
    weights = weights[:, : x.mask.shape[1]].to(logp.device) * _correction(x, how.correction)
    loss = torch.where(x.mask, found * weights, 0.0).sum()
    loss.backward()
    with torch.no_grad():
        off = x.log_ratio.double().expm1()
        kl = off - x.log_ratio
        gap = (x.old_logp - x.columns.get("sampler_logp", x.old_logp)).abs().nan_to_num()
        sums = [torch.where(x.mask, each, 0.0).sum() for each in (kl, gap, off.abs())]
    return torch.stack([loss.detach(), *sums]).double().cpu()


def tokens(part: Batch, logp: Tensor, entropy: Tensor | None = None) -> LossInputs:
    """What losses read of a slice, on the device of `logp`; without "old_logp" the policy is the one that sampled."""
    columns = {name: values.to(logp.device) for name, values in part.columns.items()}
    if entropy is not None:
        columns["entropy"] = entropy
    return LossInputs(
        logp,
        columns.get("old_logp", logp.detach()),
        part.mask.to(logp.device),
        part.advantage.to(logp.device, logp.dtype),
        part.group.to(logp.device),
        columns,
    )


def _correction(x: LossInputs, cap: float | None) -> Tensor | float:
    """(b, T) min(exp(old_logp - sampler_logp), cap), without a gradient."""
    if cap is None or "sampler_logp" not in x.columns:
        return 1.0
    return truncated(x.old_logp, x.columns["sampler_logp"], cap=cap)


def _prepared(
    policy: Policy, method: Method, batch: Batch, how: UpdateConfig, ranks: ProcessGroup
) -> tuple[Batch, int]:
    """The batch with the log-probabilities that parts need, and the size of slices that memory allowed."""
    size = how.tokens
    if method.epochs * method.minibatches > 1 and "old_logp" not in batch.columns:
        (found, _), size = _frozen(policy, batch, replace(how, tokens=size), ranks)
        batch = batch.with_columns(old_logp=found)
    if "ref_logp" in method.required_columns:
        batch = batch.with_columns(ref_logp=referred(policy, batch, replace(how, tokens=size), ranks))
    return batch, size


def referred(policy: Policy, batch: Batch, how: UpdateConfig, ranks: ProcessGroup = SINGLE_PROCESS) -> Tensor:
    """(B, T) log-probabilities under the reference model, 0 behind the end of a reply."""
    with policy.reference():
        return _frozen(policy, batch, how, ranks)[0][0]


def logps_now(policy: Policy, batch: Batch, how: UpdateConfig) -> Tensor:
    """(B, T) log-probabilities under the policy as it is, without a gradient, 0 behind the end of a reply."""
    return _frozen(policy, batch, how, SINGLE_PROCESS)[0][0]


def _measured(
    policy: Policy, method: Method, batch: Batch, how: UpdateConfig, ranks: ProcessGroup
) -> tuple[Batch, int]:
    """The batch of an optimizer step with the statistics that parts read; one more forward, where any does."""
    if not required_statistics(method):
        return batch, how.tokens
    (logp, entropy), size = _frozen(policy, batch, how, ranks, entropy="entropy" in method.required_columns)
    return add_statistics(method, batch, logp, entropy), size


def _frozen(
    policy: Policy, batch: Batch, how: UpdateConfig, ranks: ProcessGroup, *, entropy: bool = False
) -> tuple[Tensor, int]:
    """(2, B, T) log-probabilities, and entropies where they are asked for, without a gradient."""
    found = torch.zeros(2, *batch.mask.shape)

    def work(size: int) -> Tensor:
        found.zero_()  # what was found before memory ran short may be another process's now
        with torch.no_grad():
            for rows in _shared(policy, batch, size, ranks):
                both = compute_logps(policy, batch.select_rows(rows), temperature=how.temperature, entropy=entropy)
                for into, values in zip(found, both, strict=True):
                    if values is not None:
                        into[rows, : values.shape[1]] = values.float().cpu()
        return found

    result = _in_memory(policy, work, how.tokens, ranks)
    ranks.all_reduce([found])
    return result


def _accumulated(
    policy: Policy, method: Method, batch: Batch, how: UpdateConfig, ranks: ProcessGroup
) -> tuple[Tensor, int]:
    """The gradient of one optimizer step, summed over processes."""

    def work(size: int) -> Tensor:
        for parameter in policy.parameters():
            parameter.grad = None
        return gradient(policy, method, batch, replace(how, tokens=size), ranks)

    sums, size = _in_memory(policy, work, how.tokens, ranks)
    ranks.all_reduce([sums, *([] if policy.is_sharded else _filled(policy))])
    return sums, size


def _filled(policy: Policy) -> Iterator[Tensor]:
    """A gradient for each parameter, be it zero: processes must agree on how many there are."""
    for parameter in policy.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        yield parameter.grad


def _in_memory(policy: Policy, work: Callable[[int], Tensor], size: int, ranks: ProcessGroup) -> tuple[Tensor, int]:
    """
    Do it in slices of `size` tokens, or of half as many as long as memory is short in any process.

    Where weights are shared out it is done once, or LostProcess raised: none can stop half way.
    """
    if policy.is_sharded:
        with fail_together():
            return work(size), size
    while True:
        found = try_in_memory(partial(work, size))
        # Shares add up only if all processes cut the same slices.
        if not any(ranks.all_gather_object(found is None)) and found is not None:
            return found, size
        if size <= LEAST:
            raise OutOfMemory(f"There is not enough memory for one sequence: {MEMORY_ADVICE}.")
        size //= 2


def _minibatches(batch: Batch, method: Method, rng: torch.Generator) -> Iterator[list[int]]:
    """Rows of each optimizer step: whole groups, in a new order in every epoch, in parts of about equal size."""
    groups = batch.group.unique()
    for _ in range(method.epochs):
        order = groups[torch.randperm(len(groups), generator=rng)] if method.minibatches > 1 else groups
        for part in order.tensor_split(min(method.minibatches, max(1, len(groups)))):
            rows = torch.isin(batch.group, part).nonzero().flatten().tolist()
            if rows:
                yield rows


def truncated(old_logp: Tensor, sampler_logp: Tensor, *, cap: float = 2.0) -> Tensor:
    """
    (b, T) min(exp(old_logp - sampler_logp), cap) for each token, without a gradient; 1 where the sampler said nothing.

    Truncated importance sampling (Ionides 2008, doi 10.1198/106186008X320456): the weights that make samples of the
    server count as ours, up to the cap, which keeps a few rare tokens from outweighing all others. The loss of each
    token is multiplied by them.
    """
    gap = (old_logp - sampler_logp).detach()
    return torch.where(gap.isnan(), 0.0, gap).exp().clamp(max=cap)
