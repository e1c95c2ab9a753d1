"""Learning by weights: gradient GRPO and its published variants, on a laptop, one GPU or several."""

import os

# Before torch is loaded: threads that wait for work spin for some rounds (`GOMP_SPINCOUNT`), then sleep.
# Spinning without end makes an update several times as slow beside other programs (18 s against 2.4 s); sleeping at
# once makes it a third slower alone (2.2 s against 1.7 s), and a tenth of this costs sampling a quarter of its speed:
# between two operations a thread waits thousands of times.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from edgewise.learner.hardware.memory import share_heap

# It holds for threads that start later, so it comes before there are any.
share_heap()
