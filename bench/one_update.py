"""
Time and memory of one update in a process of its own: what bench/update_vs_trl.py, roofline.py and scaling.py start.

    python bench/one_update.py '{"side": "ours", "prompts": 1, "prompt": 512, "group": 8, "reply": 64}'

Prints JSON: seconds of each update, the peak of memory over what the process had before the model was loaded (bytes;
weights, optimizer and gradients are in it), and the parameters.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch: they say how its threads wait, on TRL's side too, and where the checkout is.
from common import ROOT  # noqa: F401  # isort: skip
import edgewise.learner  # noqa: F401  # isort: skip

import torch
from torch import Tensor
from transformers.utils import logging

from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import override
from edgewise.learner.methods.published import METHODS
from edgewise.learner.policy.policy import Policy
from edgewise.learner.update.gradient_step import UpdateConfig, update

WORDS = 256
"""Words of prompts and replies: their number is beside the point here."""
LR = 1e-6


def batch(prompts: int, prompt: int, group: int, reply: int) -> Batch:
    """Random prompts, each with a group of replies of full length whose advantages differ."""
    rng = torch.Generator().manual_seed(0)
    rows = prompts * group
    asked = torch.randint(3, WORDS, (prompts, prompt), generator=rng).repeat_interleave(group, 0)
    said = torch.randint(3, WORDS, (rows, reply), generator=rng)
    advantage = torch.randn(rows, generator=rng).tolist()
    return Batch.from_lists(asked.tolist(), said.tolist(), [i // group for i in range(rows)], advantage)


def ours(work: Batch, told: dict[str, Any]) -> tuple[Callable[[], Any], int]:
    """Our update, by `learner.update.gradient_step`, and the number of trained parameters."""
    policy = Policy.load(told["model"], dtype=told["dtype"], checkpointing=told["checkpointing"])
    optimizer = policy.create_optimizer(lr=LR, weight_decay=0.0)
    method = override(METHODS["grpo"], "penalties=none")
    how, rng = UpdateConfig(slice_tokens=told["tokens"]), torch.Generator().manual_seed(0)
    print(policy.summary, file=sys.stderr)
    return lambda: update(policy, optimizer, method, work, how, rng), sum(p.numel() for p in policy.parameters())


def theirs(work: Batch, told: dict[str, Any]) -> tuple[Callable[[], Any], int]:
    """TRL's: its own loss, backward, clipping and its own optimizer."""
    import trl
    from datasets import Dataset

    plain = Policy.load(told["model"], dtype="float32")
    network, tokenizer = plain.model, plain.tokenizer
    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=told["dtype"] == "bfloat16",
        report_to=[],
        learning_rate=LR,
        per_device_train_batch_size=len(work),
        num_generations=len(work) // len(set(work.prompts)),
        max_completion_length=work.ids.shape[1],
        gradient_checkpointing=told["checkpointing"],
        loss_type="grpo",
        beta=0.0,
    )
    trainer = trl.GRPOTrainer(
        model=network,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["?"] * len(work)}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    optimizer = trainer.create_optimizer()
    if told["checkpointing"]:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    network.train()
    given = padded(work)

    def step() -> None:
        trainer.compute_loss(network, dict(given)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in network.parameters())


def padded(work: Batch) -> dict[str, Tensor]:
    """The batch as TRL's loss takes it."""
    prompts = torch.tensor(work.prompts)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": work.ids,
        "completion_mask": work.mask.long(),
        "advantages": work.advantage[:, 0].float(),
        "num_items_in_batch": work.mask.sum(),
    }


def resident(which: str) -> int:
    """Bytes of this process: "VmRSS" now, or "VmHWM" the most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def run(**told: Any) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, json.dumps(told)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    clock, work = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - clock, time.process_time() - work


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    told = {
        "side": "ours",
        "model": "smollm2-135m",
        "dtype": "auto",
        "checkpointing": False,
        "tokens": 8192,
        "warm": 1,
        "repeats": 3,
        "threads": 0,
        **json.loads(sys.argv[1]),
    }
    if told["side"] == "trl":
        import trl

        assert trl.GRPOTrainer  # its modules are no memory of an update
    torch.set_num_threads(told["threads"] or torch.get_num_threads())
    before = resident("VmRSS")
    work = batch(*(told[name] for name in ("prompts", "prompt", "group", "reply")))
    step, parameters = (theirs if told["side"] == "trl" else ours)(work, told)
    forget_peak()
    times = [timed(step) for _ in range(told["warm"] + told["repeats"])][told["warm"] :]
    figures = {
        "seconds": [clock for clock, _ in times],
        "cpu_seconds": [work for _, work in times],
        "peak": resident("VmHWM") - before,
        "parameters": parameters,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
