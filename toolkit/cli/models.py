"""`edgewise models`, and the download of embedded models before a run needs them."""

import sys
from typing import Any

from edgewise.toolkit.model.embedded import catalogue, download
from edgewise.toolkit.model.embedded.catalogue import ENCODER, ENCODER_FILES


class ModelList:
    """The embedded models, as `edgewise models list` prints them."""

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per model; `path` is None for a model that is not on this machine."""
        paths = {name: download.cache_dir() / model.file for name, model in catalogue.MODELS.items()}
        return [
            {
                "name": f"local/{model.name}",
                "bytes": model.size,
                "licence": model.licence,
                "path": str(paths[name]) if paths[name].exists() else None,
            }
            for name, model in catalogue.MODELS.items()
        ]

    def lines(self) -> list[str]:
        """Return one line per model."""
        return [
            f"{row['name']:28} {row['bytes'] / 1e6:7,.0f} MB  {row['licence']}  {row['path'] or 'not pulled'}"
            for row in self.to_json()
        ]


def pull_missing(*names: str) -> None:
    """
    Download the embedded models among these names that are missing, so that a run does not stop for it.

    Raises BrokenModelFile for a damaged file; `edgewise models pull` replaces it.
    """
    for name in dict.fromkeys(names):
        # Training uses the weights of an embedded model too: torch/NAME.
        bare = name.removeprefix("torch/")
        is_embedded = name.startswith("local/") or bare in catalogue.MODELS
        if is_embedded and download.find_verified(catalogue.find_model(bare)) is None:
            pull_model(bare)


def pull_model(name: str) -> str:
    """Download and verify a model, with progress on standard error; return its path."""
    is_live, last = sys.stderr.isatty(), -1
    # A terminal shows every percent in place; a log file gets a line for every ten.
    step = 1 if is_live else 10

    def show(done: int, total: int) -> None:
        nonlocal last
        percent = 100 * done // total // step * step
        if percent != last:
            last = percent
            line = f"{name}: {percent}% of {total / 1e6:,.0f} MB"
            print(f"\r{line}" if is_live else line, end="" if is_live else "\n", file=sys.stderr, flush=True)

    # The sentence encoder has several files and is downloaded like a model.
    bare = name.removeprefix("local/")
    files = ENCODER_FILES if bare == ENCODER else (catalogue.find_model(bare),)
    path = download.pull_files(files, show)[0]
    if is_live and last >= 0:
        print(file=sys.stderr)
    return str(path)
