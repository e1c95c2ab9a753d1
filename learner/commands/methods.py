"""What `edgewise methods` does; `toolkit.cli.app` resolves this name."""

from collections.abc import Sequence
from typing import Any

from edgewise.toolkit.cli.output import Output
from edgewise.toolkit.errors import ConfigError


def methods(name: str | None, settings: Sequence[str]) -> Output:
    """All methods in a table, or one of them axis by axis, with other parameters if there are `settings`."""
    try:
        from edgewise.learner.methods.published import METHODS
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Methods of weights need {error.name}: pip install 'edgewise[learner]'."
        ) from error
    if name is not None:
        return _one(name, settings)
    if settings:
        raise ConfigError(
            "--set changes one method: name it, as in edgewise methods dapo --set loss.high=0.3."
        )
    wide = max(map(len, METHODS))
    lines = [f"{key:<{wide}}  {each.paper}  {each.differs}".rstrip() for key, each in METHODS.items()]
    data = [{"name": key, "paper": each.paper, "differs": each.differs} for key, each in METHODS.items()]
    return Output(lines, data)


def _one(name: str, settings: Sequence[str]) -> Output:
    from edgewise.learner.methods.method import describe, override
    from edgewise.learner.methods.published import METHODS, find_method

    found = find_method(name)
    key = next(key for key, each in METHODS.items() if each is found)
    axes = describe(override(found, *settings))
    head = [f"{key}, arXiv {found.paper}", f"differs from grpo: {found.differs}" if found.differs else ""]
    data: dict[str, Any] = {"name": key, "paper": found.paper, "differs": found.differs, "note": found.note}
    data["reconstructed"] = found.reconstructed
    data["axes"] = dict(line.split(": ", 1) for line in axes)
    return Output([line for line in (*head, found.note) if line] + ["", *axes], data)
