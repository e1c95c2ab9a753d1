"""
Loss and gradient against TRL 1.16 (`pip install trl==1.16.0`) on one batch, for every loss that both have.

TRL's own trainer, with a tiny random Llama in float64 on the CPU, computes its loss and differentiates it. The same
weights of a plain copy are differentiated through our losses. Old log-probabilities are moved away from the policy's,
so that clips and gates act. Errors are relative: of the loss by its size, of the gradient over all parameters together.
"""

import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from common import quick, report
from torch import Tensor
from transformers.utils import logging

from edgewise.learner.methods.batch import Batch, LossInputs, split_into_slices
from edgewise.learner.methods.method import Method, compute_losses, override
from edgewise.learner.methods.published import METHODS

PROMPTS, REPLIES, GROUP, LIMIT, WORDS = 2, 8, 4, 12, 64
BAR = 1e-5
PLAIN = ("penalties=none",)
SEQUENCE = {"importance_sampling_level": "sequence"}
# What is compared: TRL's settings, our method, and its settings.
CASES: Mapping[str, tuple[Mapping[str, Any], str, Sequence[str]]] = {
    "grpo": ({"loss_type": "grpo"}, "grpo", PLAIN),
    "grpo, KL": ({"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False}, "grpo", ()),
    "grpo, corrected KL": ({"loss_type": "grpo", "beta": 0.04}, "grpo", ("penalties.kl3.corrected=true",)),
    "grpo, delta": ({"loss_type": "grpo", "delta": 1.25}, "grpo", (*PLAIN, "loss.delta=1.25")),
    "grpo, clip-higher": ({"loss_type": "grpo", "epsilon_high": 0.28}, "grpo", (*PLAIN, "loss.high=0.28")),
    "bnpo": ({"loss_type": "bnpo"}, "bnpo", ()),
    "dr_grpo": ({"loss_type": "dr_grpo"}, "dr_grpo", (f"weigh.limit={LIMIT}",)),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, "dapo", ()),
    "dapo, KL": (
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1, "use_bias_correction_kl": False},
        "dapo",
        ("penalties=kl3", "penalties.kl3.beta=0.1"),
    ),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.3}, "cispo", ("loss.high=0.3",)),
    "cispo, cap 5": ({"loss_type": "cispo", "epsilon_high": 5.0}, "cispo", ()),
    "sapo": ({"loss_type": "sapo"}, "sapo", ()),
    "luspo": (
        {"loss_type": "luspo", "epsilon": 0.02, "epsilon_high": 0.03, **SEQUENCE},
        "luspo",
        ("loss.low=0.02", "loss.high=0.03"),
    ),
    "vespo": ({"loss_type": "vespo"}, "vespo", ()),
    "gmpo": ({}, "gmpo", ()),
    "gspo": ({"loss_type": "grpo", "epsilon": 3e-4, "epsilon_high": 4e-4, **SEQUENCE}, "gspo", ()),
    "gspo, wide": ({"loss_type": "grpo", **SEQUENCE}, "gspo", ("loss.low=0.2", "loss.high=0.2")),
    "gspo, token form": ({"loss_type": "grpo", **SEQUENCE}, "gspo_token", ("loss.low=0.2", "loss.high=0.2")),
}


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).double().eval()


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(WORDS - 3))])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def data() -> dict[str, Tensor]:
    """One batch as TRL's loss takes it: prompts padded on the left, replies on the right."""
    rng = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, LIMIT + 1, (REPLIES,), generator=rng)
    prompt = torch.randint(3, WORDS, (PROMPTS, 5), generator=rng).repeat_interleave(GROUP, 0)
    seen = torch.ones_like(prompt)
    seen[:GROUP, :2], prompt[:GROUP, :2] = 0, 0
    mask = (torch.arange(LIMIT)[None] < lengths[:, None]).long()
    return {
        "prompt_ids": prompt,
        "prompt_mask": seen,
        "completion_ids": torch.randint(3, WORDS, (REPLIES, LIMIT), generator=rng) * mask,
        "completion_mask": mask,
        "advantages": torch.randn(REPLIES, generator=rng, dtype=torch.float64),
        "num_items_in_batch": mask.sum(),
        "noise": torch.randn(2, REPLIES, LIMIT, generator=rng, dtype=torch.float64),
    }


def logps(network: Any, given: Mapping[str, Tensor]) -> Tensor:
    """(B, T) by the plain way: a row for each sequence, all logits, log-softmax."""
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)
    seen = torch.cat([given["prompt_mask"], given["completion_mask"]], 1)
    logits = network(input_ids=ids, attention_mask=seen).logits[:, -LIMIT - 1 : -1]
    return logits.log_softmax(-1).gather(2, given["completion_ids"][..., None])[..., 0]


def theirs(network: Any, given: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[float, Tensor]:
    """TRL's loss and its gradient."""
    import trl
    from datasets import Dataset
    from trl.experimental import gmpo

    # TRL's loss types are one trainer; GMPO is a trainer of its own.
    kind, config_kind = (
        (trl.GRPOTrainer, trl.GRPOConfig) if "loss_type" in settings else (gmpo.GMPOTrainer, gmpo.GMPOConfig)
    )
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        network.config._name_or_path = folder  # where TRL reads the reference model
        config = config_kind(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=REPLIES,
            num_generations=GROUP,
            max_completion_length=LIMIT,
            gradient_checkpointing=False,
            disable_dropout=True,
            **{"beta": 0.0, **settings},
        )
        trainer = kind(
            model=network,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": ["w1 w2"] * 8}),
            processing_class=tokenizer(),
        )
        trainer.current_gradient_accumulation_steps = 1
        network.zero_grad()
        loss = trainer.compute_loss(network.train(), dict(given))
        loss.backward()
    return loss.item(), flat(network)


def ours(network: Any, given: Mapping[str, Tensor], method: Method, size: int) -> tuple[float, Tensor]:
    """Our loss and its gradient, in slices of `size` tokens."""
    mask = given["completion_mask"].bool()
    rows = [row[keep].tolist() for row, keep in zip(given["completion_ids"], mask, strict=True)]
    prompts = [row[keep].tolist() for row, keep in zip(given["prompt_ids"], given["prompt_mask"].bool(), strict=True)]
    columns = {name: given[f"{name}_per_token_logps"] for name in ("old", "ref")}
    groups = [i // GROUP for i in range(REPLIES)]
    batch = Batch.from_lists(prompts, rows, groups, given["advantages"].tolist())
    weights, total = method.weigh(batch).double(), 0.0
    network.zero_grad()
    for which in split_into_slices(batch, size, whole_groups=method.needs_whole_groups):
        part = {name: x[which] for name, x in given.items() if x.ndim == 2}
        x = LossInputs(
            logps(network, part),
            columns["old"][which],
            mask[which],
            batch.advantage[which],
            batch.group[which],
            {"ref_logp": columns["ref"][which]},
        )
        weight = torch.zeros(len(which), LIMIT).double()
        weight[:, : weights.shape[1]] = weights[which]
        loss = (compute_losses(method, x) * weight).sum()
        loss.backward()
        total += loss.item()
    return total, flat(network)


def flat(network: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def main() -> int:
    cases = {name: case for name, case in CASES.items() if not quick() or "," not in name}
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    start, given = model(), data()
    noise = given.pop("noise")
    with torch.no_grad():
        now = logps(start, given)
    given["old_per_token_logps"] = now - 0.5 * noise[0]
    given["ref_per_token_logps"] = now + 0.3 * noise[1]
    worst: dict[str, float] = {}
    for name, (settings, row, changes) in cases.items():
        loss, gradient = theirs(deepcopy(start), given, settings)
        method = override(METHODS[row], *changes)
        errors = []
        for size in (10**6, 20):
            value, found = ours(deepcopy(start), given, method, size)
            scale = max(float(gradient.norm()), 1e-12)
            errors.append((abs(value - loss) / abs(loss), float((found - gradient).norm()) / scale))
        worst[name] = max(map(max, errors))
        print(f"{name:20} loss {loss:+.6f}  gradient {gradient.norm():.4f}  error {worst[name]:.1e}")
    most = max(worst, key=lambda name: worst[name])
    figures = {"cases": len(worst), "worst": worst[most], "of": most}
    return report("trl_parity", figures, "relative error <= 1e-5", worst[most] <= BAR)


if __name__ == "__main__":
    sys.exit(main())
