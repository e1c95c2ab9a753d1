"""How long a step will take: arithmetic over the products of matrices, at a rate that is measured for a moment."""

import time

import torch

from edgewise.learner.config import WeightsConfig
from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.types import Example

SHARE = 0.4
"""Of the rate of one large product: what a whole step comes to, roughly."""
BANDWIDTH = 8e9
"""Bytes of weights a second that decoding reads on a CPU; more elsewhere."""
SIZE = 1024


@run_in_compute_thread
def estimate_step_seconds(policy: Policy, config: WeightsConfig, row: Example) -> float:
    """About how long a step takes if every reply is as long as `max_tokens` allows, by its first row's prompt."""
    size = sum(p.numel() for p in policy.model.parameters())
    prompt, rollouts = len(policy.encode(row.messages)), config.batch_size * config.group_size
    read = config.batch_size * prompt + rollouts * config.max_tokens
    rate = SHARE * measure_peak_rate(policy.device, policy.dtype)
    decoding = max(2 * size * rollouts / rate, size * policy.dtype.itemsize / BANDWIDTH)
    return 6 * size * read / rate + config.max_tokens * decoding


def measure_peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of large matrices, the best of a few."""
    a, b = (torch.randn(SIZE, SIZE, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        float((a @ b).float().sum())  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best
