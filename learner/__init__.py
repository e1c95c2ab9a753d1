"""Learning by weights: gradient GRPO and its published variants, on a laptop, one GPU or several."""

import os
from typing import TYPE_CHECKING

# Before torch is loaded: threads that wait for work spin for some rounds (`GOMP_SPINCOUNT`), then sleep.
# Spinning without end makes an update several times as slow beside other programs (18 s against 2.4 s); sleeping at
# once makes it a third slower alone (2.2 s against 1.7 s), and a tenth of this costs sampling a quarter of its speed:
# between two operations a thread waits thousands of times.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from edgewise.learner.hardware.memory import share_heap
from edgewise.toolkit.util.lazy import make_resolver

if TYPE_CHECKING:
    from edgewise.learner.absorption.api import aabsorb, absorb
    from edgewise.learner.api import atrain, train
    from edgewise.learner.comparison.runner import acompare, compare
    from edgewise.learner.methods.method import Method, describe, override
    from edgewise.learner.methods.published import METHODS
    from edgewise.learner.policy.policy import Policy

_MODULES = {
    "train": "api",
    "atrain": "api",
    "absorb": "absorption.api",
    "aabsorb": "absorption.api",
    "compare": "comparison.runner",
    "acompare": "comparison.runner",
    "Method": "methods.method",
    "describe": "methods.method",
    "override": "methods.method",
    "METHODS": "methods.published",
    "Policy": "policy.policy",
}
__all__ = [
    "METHODS",
    "Method",
    "Policy",
    "aabsorb",
    "absorb",
    "acompare",
    "atrain",
    "compare",
    "describe",
    "override",
    "train",
]

__getattr__ = make_resolver(__name__, _MODULES)
# It holds for threads that start later, so it comes before there are any.
share_heap()
