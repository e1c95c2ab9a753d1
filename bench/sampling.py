"""Tokens per second of the learner's sampling against transformers' generate; the time of a small step's sampling."""

import gc
import time
from collections.abc import Callable

import numpy as np
import torch
from common import quick, report

from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import CompletionRequest, sample

MODEL = "smollm2-135m"
PROMPT, GROUP, NEW = 256, 8, 64
STEP = (4, 45, 8, 16)
BAR = "prompt 256, G = 8, 64 new tokens: >= 2 x tokens per second of generate(num_return_sequences=8) in its better "
BAR += "precision (of fp32 and bf16), at the same precision"
DTYPES = ("bfloat16", "float32")


def asks(prompts: int, length: int, group: int, new: int) -> list[CompletionRequest]:
    rng = np.random.default_rng(length)
    made = [tuple(rng.integers(1000, 40000, length).tolist()) for _ in range(prompts)]
    return [CompletionRequest(prompt, new, seed=i) for prompt in made for i in range(group)]


def ours(policy: Policy, wanted: list[CompletionRequest]) -> Callable[[], int]:
    return lambda: sum(len(drawn.ids) for drawn in sample(policy, wanted))


def theirs(policy: Policy, wanted: list[CompletionRequest]) -> Callable[[], int]:
    prompt = torch.tensor([wanted[0].prompt])
    settings = {"num_return_sequences": len(wanted), "max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True}
    settings |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}

    def run() -> int:
        with torch.inference_mode():
            found = policy.model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        return found[:, prompt.shape[1] :].numel()

    return run


def timed(runs: dict[str, Callable[[], int]], repeats: int) -> dict[str, tuple[float, int]]:
    """Shortest seconds of several interleaved runs of each, and the tokens that it wrote."""
    found: dict[str, tuple[float, int]] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            gc.collect()
            start = time.perf_counter()
            tokens = run()
            seconds = time.perf_counter() - start
            found[name] = (min(seconds, found.get(name, (seconds, 0))[0]), tokens)
    return found


def main() -> int:
    repeats = 2 if quick() else 5
    runs: dict[str, Callable[[], int]] = {}
    small: dict[str, Callable[[], int]] = {}
    for dtype in DTYPES:
        policy = Policy.load(MODEL, device="cpu", dtype=dtype)
        policy.stop_ids = frozenset()  # all rows are written to the end, as generate's are
        runs[f"ours {dtype}"] = ours(policy, asks(1, PROMPT, GROUP, NEW))
        runs[f"generate {dtype}"] = theirs(policy, asks(1, PROMPT, GROUP, NEW))
        small[dtype] = ours(policy, asks(*STEP))
    rates = {name: tokens / seconds for name, (seconds, tokens) in timed(runs, repeats).items()}
    for name, rate in rates.items():
        print(f"{name:20} {rate:8.1f} tokens/s")
    steps = {dtype: seconds for dtype, (seconds, _) in timed(small, repeats + 1).items()}
    print("4 prompts of 45 tokens x 8 completions of 16:", {k: f"{v:.2f} s" for k, v in steps.items()})
    rival = max(DTYPES, key=lambda dtype: rates[f"generate {dtype}"])
    times = {dtype: rates[f"ours {dtype}"] / rates[f"generate {dtype}"] for dtype in DTYPES}
    figures = {
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "times": {dtype: round(value, 2) for dtype, value in times.items()},
        "rival": rival,
        "small_step_seconds": {dtype: round(seconds, 2) for dtype, seconds in steps.items()},
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }
    return report("sampling", figures, BAR, times[rival] >= 2)


if __name__ == "__main__":
    raise SystemExit(main())
