"""Estimate of the time of a training step: operations of matrix products, at a rate that is measured for a moment."""

import time

import torch

from edgewise.learner.config import WeightsConfig
from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.policy.policy import Policy
from edgewise.toolkit.types import Example

STEP_EFFICIENCY = 0.4
"""Rate of a whole step over the rate of one large product, roughly."""
BANDWIDTH = 8e9
"""Bytes of weights a second that decoding reads on a CPU; more elsewhere."""
SIZE = 1024
"""Rows and columns of the measured product."""


@run_in_compute_thread
def estimate_step_seconds(policy: Policy, config: WeightsConfig, row: Example) -> float:
    """Return the seconds of a step whose prompts are as long as this row's and whose replies reach `max_tokens`."""
    parameters = sum(p.numel() for p in policy.model.parameters())
    prompt, rollouts = len(policy.encode(row.messages)), config.batch_size * config.group_size
    tokens = config.batch_size * prompt + rollouts * config.max_tokens
    rate = STEP_EFFICIENCY * measure_peak_rate(policy.device, policy.dtype)
    # A token takes 2 operations for each parameter forward, and 4 backward. Decoding reads all weights for each token
    # of the longest row, and waits for memory if there are few rows.
    decoding = max(2 * parameters * rollouts / rate, parameters * policy.dtype.itemsize / BANDWIDTH)
    return 6 * parameters * tokens / rate + config.max_tokens * decoding


def measure_peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a product of large matrices, the best of 20."""
    a, b = (torch.randn(SIZE, SIZE, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    # The first ones warm up caches and kernels; the best is the least disturbed.
    for _ in range(20):
        start = time.perf_counter()
        float((a @ b).float().sum())  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best
