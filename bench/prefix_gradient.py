"""
The shared-prefix forward and gradient against a padded row for each reply, in float64, over families of models.

Ragged groups, prompts of several lengths, replies of one token, sliding windows, tied weights, query norms, biases.
transformers computes RMSNorm in float32 whatever the model is in; both sides have it in float64 here. Families whose
own code computes other things in float32 (a softmax with a soft cap, Cohere's rotations) are left out.
"""

import sys

import torch
from common import quick, report

from edgewise.learner.attention.logprobs import compute_logps
from tests.support.learner import exact

BAR = 1e-10
ROUNDED = ("Gemma2", "Cohere")
SHAPES = {
    "ragged": exact.RAGGED,
    "one prompt": ((60,), ((20,) * 8,)),
    "several": ((3, 40, 41, 9), ((12, 1, 30), (30, 30, 2, 7), (5,), (1, 1))),
}


def main() -> int:
    families = [name for name in exact.FAMILIES if name not in ROUNDED]
    worst = {"value": 0.0, "entropy": 0.0, "gradient": 0.0}
    for family in families[:3] if quick() else families:
        for name, shape in SHAPES.items():
            policy, batch = exact.policy(family), exact.batch(*shape)
            theirs = exact.compute_padded(policy, batch, 0.8)
            wanted = exact.compute_gradients(policy, theirs)
            ours = compute_logps(policy, batch, temperature=0.8, entropy=True)
            found = {
                "value": exact.max_difference(ours[:1], theirs[:1]),
                "entropy": exact.max_difference(ours[1:], theirs[1:]),
                "gradient": exact.max_difference(exact.compute_gradients(policy, ours), wanted),
            }
            size = max(float(g.abs().max()) for g in wanted)
            print(f"{family:12} {name:12} {found}  largest gradient {size:.1f}", flush=True)
            worst = {key: max(worst[key], found[key]) for key in worst}
    figures = {key: float(f"{value:.1e}") for key, value in worst.items()}
    return report("prefix_gradient", figures, "absolute error <= 1e-10", max(worst.values()) <= BAR)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
