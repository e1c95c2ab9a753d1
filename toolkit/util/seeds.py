"""Seed tree: every random choice of a run has a seed of its own, derived from its path."""

import hashlib
import json


def derive_seed(*path: int | str) -> int:
    """
    Return a stable 31-bit seed for a path such as `derive_seed(7, "rollout", step, example.id, sample)`.

    The seed depends on the path alone, not on the machine, the process or the order of calls. `1` and `"1"` are
    different parts of a path.
    """
    # Python's own `hash` differs from process to process; JSON keeps 1 and "1" apart.
    digest = hashlib.sha256(json.dumps(path).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFF_FFFF  # 31 bits: some providers take signed 32-bit seeds
