"""The seed tree: every random choice of a run has a seed of its own, named by its path from the root."""

import hashlib
import json


def derive_seed(*path: int | str) -> int:
    """
    A stable 31-bit seed for a path such as `seed(7, "rollout", step, example.id, sample)`.

    It depends on nothing but the path: neither the machine, the process nor the order of the calls. `1` and
    `"1"` are different steps of a path.
    """
    digest = hashlib.sha256(json.dumps(path).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFF_FFFF
