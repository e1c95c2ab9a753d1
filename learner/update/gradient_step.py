"""
The update: token weights are computed on the whole batch, slices save memory, gradients are summed.

    batch ── minibatches (whole groups) ── slices ── backward ──▶ sum of gradients ──▶ clip ──▶ optimizer step
              one optimizer step each       shared by processes     over slices and processes

Losses are sums of w_t * loss_t with weights w_t from the whole batch. So the gradient is the same however the batch is
sliced, and however many processes share the slices.

B sequences in a batch, b in a slice, T tokens of the longest completion.
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
from edgewise.learner.methods.batch_statistics import add_statistics, required_statistics
from edgewise.learner.methods.method import Method, compute_losses
from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.errors import OutOfMemory

MIN_SLICE_TOKENS = 64
"""Tokens of the smallest slice that is tried where memory is short."""


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """
    Settings of an update that are no part of the method; only `correction` and `clip` change the gradient.

    `temperature` is that of sampling, `clip` the largest norm of the gradient. `correction` is the cap of
    `truncated_importance_weights`, None for no correction.
    """

    temperature: float = 1.0
    slice_tokens: int = 8192
    clip: float = 1.0
    correction: float | None = None


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """
    Statistics of an update over the tokens of its batch.

    `loss` is the weighted sum of losses, the mean of all epochs. `kl` is the mean of r - 1 - log r, where r is the
    ratio to the policy before the update; `ratio` the mean of |r - 1| in the first optimizer step, which must be
    rounding. `mismatch` is the mean difference to the sampler's log-probabilities. `norm` is that of the last gradient,
    before clipping, `tokens` the size of slices that memory allowed.
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
    config: UpdateConfig,
    rng: torch.Generator,
    group: ProcessGroup = SINGLE_PROCESS,
) -> UpdateStats:
    """
    Carry out a method's epochs and minibatches on a batch. Raises OutOfMemory if a single sequence is too much.

    A step whose gradient is not finite is skipped.
    """
    # With a single optimizer step the policy is still the old one, and no forward is needed to know it.
    if method.epochs * method.minibatches > 1 and "old_logp" not in batch.columns:
        logp, _, tokens = compute_frozen_logps(policy, batch, config, group)
        batch, config = batch.with_columns(old_logp=logp), replace(config, slice_tokens=tokens)
    if "ref_logp" in method.required_columns:
        batch = batch.with_columns(ref_logp=compute_reference_logps(policy, batch, config, group))

    # Rows of the sums: loss, KL, mismatch, |r - 1|.
    sums = torch.zeros(4, dtype=torch.float64)
    norm, steps, first_ratio = 0.0, 0, None
    for rows in _iterate_minibatches(batch, method, rng):
        part = batch.select_rows(rows)
        optimizer.zero_grad(set_to_none=True)
        if required_statistics(method):
            needs_entropy = "entropy" in method.required_columns
            logp, entropy, tokens = compute_frozen_logps(policy, part, config, group, needs_entropy)
            part, config = add_statistics(method, part, logp, entropy), replace(config, slice_tokens=tokens)

        def work(tokens: int, part: Batch = part, config: UpdateConfig = config) -> Tensor:
            for parameter in policy.parameters():
                parameter.grad = None  # of a larger slice, before memory ran short
            return compute_gradient(policy, method, part, replace(config, slice_tokens=tokens), group)

        step_sums, tokens = _run_in_slices(policy, work, config.slice_tokens, group)
        config = replace(config, slice_tokens=tokens)
        gradients = []
        if not policy.is_sharded:  # FSDP has reduced its gradients in the backward
            for parameter in policy.parameters():
                # Processes must reduce equally many tensors, also if one had no slice.
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        group.all_reduce([step_sums, *gradients])

        sums += step_sums
        if first_ratio is None:
            first_ratio = float(step_sums[3]) / max(1.0, float(part.mask.sum()))
        norm = policy.clip_gradients(config.clip)
        # A single NaN would stay in the moments of AdamW for ever.
        if math.isfinite(norm) and norm > 0:
            optimizer.step()
            steps += 1

    if first_ratio is None:
        return UpdateStats(tokens=config.slice_tokens)
    count = max(1.0, float(batch.mask.sum()) * method.epochs)
    loss, kl, mismatch, _ = sums.tolist()
    means = (loss / method.epochs, kl / count, first_ratio, mismatch / count)
    return UpdateStats(*means, norm, steps, config.slice_tokens)


def _iterate_minibatches(batch: Batch, method: Method, rng: torch.Generator) -> Iterator[list[int]]:
    """Yield the rows of each optimizer step: whole groups, in a new order in every epoch, in about equal parts."""
    groups = batch.group.unique()
    for _ in range(method.epochs):
        # Groups, not rows: advantages compare the rollouts of a group. One step needs no order, and draws no
        # random number.
        order = groups[torch.randperm(len(groups), generator=rng)] if method.minibatches > 1 else groups
        for part in order.tensor_split(min(method.minibatches, max(1, len(groups)))):
            rows = torch.isin(batch.group, part).nonzero().flatten().tolist()
            if rows:
                yield rows


# ---- one optimizer step ------------------------------------------------------------------------------------


def compute_gradient(
    policy: Policy, method: Method, batch: Batch, config: UpdateConfig, group: ProcessGroup = SINGLE_PROCESS
) -> Tensor:
    """
    Add the gradient of this process's slices to the parameters' `grad`.

    Return the sums of its slices, [4]: loss, KL, mismatch with the sampler, |r - 1|; see `UpdateStats`.
    """
    # Before slicing, because a mean over the batch can't be known from a slice.
    weights = method.weigh(batch)  # [B, T]
    sums = torch.zeros(4, dtype=torch.float64)
    for rows in _split_for_process(policy, batch, config.slice_tokens, group, method.needs_whole_groups):
        if rows:
            sums += backward_slice(policy, method, batch.select_rows(rows), weights[rows], config)
        else:
            # FSDP gathers weights in each forward: a process without rows must take part.
            compute_logps(policy, batch.select_rows(rows))[0].sum().backward()
    return sums


def backward_slice(policy: Policy, method: Method, part: Batch, weights: Tensor, config: UpdateConfig) -> Tensor:
    """Run forward and backward of a slice and return its sums, [4], as `compute_gradient` does."""
    needs_entropy = "entropy" in method.required_columns
    logp, entropy = compute_logps(policy, part, temperature=config.temperature, entropy=needs_entropy)
    x = build_loss_inputs(part, logp, entropy)
    # Padding may hold NaN: `LossInputs` and the mask below keep it out of the sum, and so out of the gradient.
    losses = compute_losses(method, x)  # [b, T]
    weights = weights[:, : x.mask.shape[1]].to(logp.device)
    if config.correction is not None and "sampler_logp" in x.columns:
        sampler_logp = x.columns["sampler_logp"]
        weights = weights * truncated_importance_weights(x.old_logp, sampler_logp, cap=config.correction)
    loss = torch.where(x.mask, losses * weights, 0.0).sum()
    loss.backward()

    with torch.no_grad():
        # r - 1 by expm1 in float64: for ratios near 1, exp(x) - 1 would leave rounding alone. The estimate
        # r - 1 - log r of the KL is never negative (Schulman, "Approximating KL divergence", k3).
        ratio_gap = x.log_ratio.double().expm1()
        kl = ratio_gap - x.log_ratio
        mismatch = (x.old_logp - x.columns.get("sampler_logp", x.old_logp)).abs().nan_to_num()
        sums = [torch.where(x.mask, values, 0.0).sum() for values in (kl, mismatch, ratio_gap.abs())]
    return torch.stack([loss.detach(), *sums]).double().cpu()


def build_loss_inputs(part: Batch, logp: Tensor, entropy: Tensor | None = None) -> LossInputs:
    """
    Return the inputs of losses for a slice, on the device of `logp` [b, T].

    Without the column "old_logp" the old policy is the current one.
    """
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


def truncated_importance_weights(old_logp: Tensor, sampler_logp: Tensor, *, cap: float = 2.0) -> Tensor:
    """
    Return min(exp(old_logp - sampler_logp), cap) of each token, [b, T], without a gradient; 1 for a NaN of the sampler.

    Truncated importance sampling (Ionides 2008, doi 10.1198/106186008X320456).
    """
    # A server q samples in place of the policy p: E_q[(p / q) f] = E_p[f], so each token's loss is multiplied by p / q.
    # The cap bounds the variance at the price of a small bias: else a few rare tokens outweigh all others.
    gap = (old_logp - sampler_logp).detach()
    return torch.where(gap.isnan(), 0.0, gap).exp().clamp(max=cap)


# ---- without a gradient ------------------------------------------------------------------------------------


def compute_reference_logps(
    policy: Policy, batch: Batch, config: UpdateConfig, group: ProcessGroup = SINGLE_PROCESS
) -> Tensor:
    """Return log-probabilities under the reference model, [B, T], 0 outside of the mask."""
    with policy.reference():
        return compute_frozen_logps(policy, batch, config, group)[0]


def compute_frozen_logps(
    policy: Policy, batch: Batch, config: UpdateConfig, group: ProcessGroup = SINGLE_PROCESS, entropy: bool = False
) -> tuple[Tensor, Tensor, int]:
    """
    Return log-probabilities, [B, T], and entropies on request, [B, T], without a gradient, and the size of slices.

    Both are 0 outside of the mask.
    """
    values = torch.zeros(2, *batch.mask.shape)

    def work(tokens: int) -> Tensor:
        values.zero_()  # other slices may be another process's than before memory ran short
        with torch.no_grad():
            for rows in _split_for_process(policy, batch, tokens, group):
                part = batch.select_rows(rows)
                results = compute_logps(policy, part, temperature=config.temperature, entropy=entropy)
                for target, source in zip(values, results, strict=True):
                    if source is not None:
                        target[rows, : source.shape[1]] = source.float().cpu()
        return values

    _, tokens = _run_in_slices(policy, work, config.slice_tokens, group)
    # Each process has filled the rows of its slices: their sum is the whole.
    group.all_reduce([values])
    return values[0], values[1], tokens


# ---- slices ------------------------------------------------------------------------------------------------


def _split_for_process(
    policy: Policy, batch: Batch, tokens: int, group: ProcessGroup, whole_groups: bool = False
) -> Sequence[list[int]]:
    """
    Return the rows of each slice of this process, of at most `tokens` tokens, small enough that all have about one.

    With sharded weights all processes have equally many, the last one maybe without rows.
    """
    if group.size > 1:
        # About one slice for each process; the longest completion is the room for an uneven cut.
        total = sum(map(len, set(batch.prompts))) + int(batch.mask.sum())
        tokens = min(tokens, total // group.size + int(batch.lengths.max()))
    slices = list(split_into_slices(batch, tokens, whole_groups=whole_groups))
    return group.shard([*slices, *[[]] * (-len(slices) % group.size)] if policy.is_sharded else slices)


def _run_in_slices(
    policy: Policy, work: Callable[[int], Tensor], tokens: int, group: ProcessGroup
) -> tuple[Tensor, int]:
    """
    Run `work` in slices of `tokens` tokens, halved while memory is short in any process; return result and size.

    With sharded weights it runs once, and an error is LostProcess: no process can stop half way.
    """
    if policy.is_sharded:
        # FSDP communicates inside of forward and backward: to retry, all would have to fail at the same place.
        with fail_together():
            return work(tokens), tokens
    while True:
        result = try_in_memory(partial(work, tokens))
        # The slices add up only if all processes cut the same ones, so all of them halve together.
        if not any(group.all_gather_object(result is None)) and result is not None:
            return result, tokens
        if tokens <= MIN_SLICE_TOKENS:
            raise OutOfMemory(f"There is not enough memory for one sequence: {MEMORY_ADVICE}.")
        tokens //= 2
