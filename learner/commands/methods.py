"""`edgewise methods`."""

from collections.abc import Sequence

from edgewise.toolkit.cli.output import Output
from edgewise.toolkit.errors import ConfigError


def methods(name: str | None, settings: Sequence[str]) -> Output:
    """Return all methods as a table, or the axes of one, changed by `settings`. Raises ConfigError without torch."""
    # Imported here: the message names the extra that is missing.
    try:
        from edgewise.learner.methods.method import describe, override
        from edgewise.learner.methods.published import METHODS, find_method
    except ModuleNotFoundError as error:
        raise ConfigError(f"Methods of weights need {error.name}: pip install 'edgewise[learner]'.") from error

    if name is None:
        if settings:
            raise ConfigError("--set changes one method: name it, as in edgewise methods dapo --set loss.high=0.3.")
        width = max(map(len, METHODS))
        lines = [f"{key:<{width}}  {m.paper}  {m.differs}".rstrip() for key, m in METHODS.items()]
        data = [{"name": key, "paper": m.paper, "differs": m.differs} for key, m in METHODS.items()]
        return Output(lines, data)

    # An alias is printed under the method's own name.
    method = find_method(name)
    key = next(key for key, known in METHODS.items() if known is method)
    axes = describe(override(method, *settings))
    head = [
        f"{key}, arXiv {method.paper}",
        f"differs from grpo: {method.differs}" if method.differs else "",
        method.note,
    ]
    details = {
        "name": key,
        "paper": method.paper,
        "differs": method.differs,
        "note": method.note,
        "reconstructed": method.reconstructed,
        "axes": dict(line.split(": ", 1) for line in axes),
    }
    return Output([*filter(None, head), "", *axes], details)
