"""What `edgewise models` prints, and the files of the sentence encoder, which is fetched like the embedded models."""

import sys
from typing import Any

from edgewise.toolkit.model.embedded import catalogue, download
from edgewise.toolkit.model.embedded.catalogue import ENCODER, ENCODER_FILES


class ModelList:
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
            for model in catalogue.MODELS.values()
        ]

    def lines(self) -> list[str]:
        """One line per model."""
        return [
            f"{row['name']:28} {row['bytes'] / 1e6:7,.0f} MB  {row['licence']}  {row['path'] or 'not pulled'}"
            for row in self.to_json()
        ]


def list_models() -> ModelList:
    """All embedded models."""
    return ModelList()


def pull_missing(*names: str) -> None:
    """
    Pull the embedded models among these names that are missing: a long download shows before a run, not in it.

    Raises BrokenModelFile for a damaged file: only `edgewise models pull` replaces what is there.
    """
    for name in dict.fromkeys(names):
        bare = name.removeprefix("torch/")
        embedded = name.startswith("local/") or bare in catalogue.MODELS
        if embedded and download.find_verified(catalogue.find_model(bare)) is None:
            pull_model(bare)


def pull_model(name: str) -> str:
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
    files = ENCODER_FILES if bare == ENCODER else (catalogue.find_model(bare),)
    path = download.pull_files(files, progress)[0]
    if live and shown >= 0:
        print(file=sys.stderr)
    return str(path)
