"""
A method is a value made of parts, one for each axis. Here is what a part may see, and nothing of any single method.

     axis        signature                                  acts on                  default
  1  select      rows, memory, rng, k -> rows               before sampling          in turn
  2  plan        Asked -> Plan of groups                    during sampling          the same number for each row
  3  shape       Table -> (N,) reward                       finished groups          as it is
  4  keep        Table -> (N,) bool                         finished groups          all
  5  advantage   Table -> (N,)                              kept rows                centred / std
  6  credit      Table, (N,) -> (M,)                        steps                    the rollout's, for each
  7  weigh       Batch -> (B, T)                            the whole batch          per sequence
  8  loss        Tokens -> (b, T)                           each slice               clipped
  9  penalties   Tokens -> (b, T), several                  each slice               none
 10  epochs, minibatches                                    the optimizer            1, 1

N rollouts, M steps of them, B = M sequences in a batch, b in a slice of it, T tokens of the longest reply.

Axes 1 to 6 are numpy and live in `toolkit.groups`; 7 to 9 are torch, in `learner.weigh`, `learner.loss` and
`learner.penalty`. What needs a statistic of the batch is computed before it is sliced; losses give a value for each
token and never divide.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from learner import loss, weigh
from toolkit.errors import ConfigError
from toolkit.groups import advantage, credit, keep, plan, select, shape
from toolkit.groups.table import reads
from toolkit.load import meant

Part = Callable[..., Any]
F = TypeVar("F", bound=Part)
AXES = ("select", "plan", "shape", "keep", "advantage", "credit", "weigh", "loss", "penalties")
NUMBERS = ("epochs", "minibatches")

__all__ = ["AXES", "Method", "describe", "override", "reads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """
    What to sample, how runs are compared, and what is descended on; `paper` is an arXiv id, `differs` from GRPO.

    `epochs` are passes over a batch, `minibatches` optimizer steps in each; beyond one in all, the ratio to the
    policy that sampled moves away from 1.
    """

    paper: str
    differs: str = ""
    select: Part = select.in_turn
    plan: Part = plan.fixed
    shape: Part = shape.raw
    keep: Part = keep.everything
    advantage: Part = advantage.standardised
    credit: Part = credit.broadcast
    weigh: Part = weigh.per_sequence
    loss: Part = loss.clipped
    penalties: tuple[Part, ...] = ()
    epochs: int = 1
    minibatches: int = 1

    def parts(self) -> Iterator[Part]:
        """All parts, in the order of the axes."""
        for axis in AXES[:-1]:
            yield getattr(self, axis)
        yield from self.penalties

    @property
    def needs(self) -> frozenset[str]:
        """Names of the columns that any part reads; the loop computes those and no others."""
        return frozenset().union(*(columns(part) for part in self.parts()))

    @property
    def whole_groups(self) -> bool:
        """Whether a loss compares sequences of a group, so that a slice must not cut one."""
        return "group" in self.needs


def columns(part: Part) -> frozenset[str]:
    """The columns that a part declares with `reads`."""
    return getattr(_function(part), "columns", frozenset())


def describe(method: Method) -> list[str]:
    """One line for each axis: the part and its parameters, written so that `override` takes them."""
    lines = [f"{axis}: {_shown(getattr(method, axis))}" for axis in AXES[:-1]]
    lines += [f"penalties: {', '.join(map(_shown, method.penalties)) or 'none'}"]
    return [*lines, *(f"{name}: {getattr(method, name)}" for name in NUMBERS)]


def override(method: Method, *settings: str) -> Method:
    """
    The method with other parameters, such as "loss.high=0.28", "epochs=2" or "penalties.kl3.beta=0.1".

    Values are JSON, or words. Raises ConfigError for a name that no part has, with those that it has.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} is no setting of a method: write it as loss.high=0.28.")
        method = _set(method, name.split("."), _value(value))
    return method


def _set(method: Method, path: Sequence[str], value: Any) -> Method:
    match path:
        case [name] if name in NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is a whole number from 1, not {value!r}.")
            return replace(method, **{name: value})
        case ["penalties", which, name]:
            names = [_function(part).__name__ for part in method.penalties]
            if which not in names:
                raise ConfigError(f"This method has no penalty {which!r}{meant(which, names)}")
            changed = [
                _with(part, name, value) if known == which else part
                for known, part in zip(names, method.penalties, strict=True)
            ]
            return replace(method, penalties=tuple(changed))
        case [axis, name] if axis in AXES[:-1]:
            return replace(method, **{axis: _with(getattr(method, axis), name, value)})
    known = [*AXES, *NUMBERS]
    raise ConfigError(f"{'.'.join(path)!r} is no setting of a method{meant(path[0], known)}")


def _with(part: Part, name: str, value: Any) -> Part:
    known = parameters(part)
    if name not in known:
        has = f"; it has {', '.join(known)}" if known else ": it has none"
        raise ConfigError(f"{_function(part).__name__} has no parameter {name!r}{has}.")
    usual = known[name]
    if isinstance(usual, bool) != isinstance(value, bool) or (
        isinstance(usual, int | float) != isinstance(value, int | float)
    ):
        raise ConfigError(f"{name}={value!r} does not fit {_function(part).__name__}, where it is {usual!r}.")
    return partial(part, **{name: value})


def parameters(part: Part) -> dict[str, Any]:
    """The parameters of a part and their values: those that are given by keyword only."""
    given = part.keywords if isinstance(part, partial) else {}
    found = inspect.signature(_function(part)).parameters.values()
    return {p.name: given.get(p.name, p.default) for p in found if p.kind is p.KEYWORD_ONLY}


def _function(part: Part) -> Part:
    return part.func if isinstance(part, partial) else part


def _shown(part: Part) -> str:
    return " ".join(
        [
            _function(part).__name__,
            *(f"{k}={json.dumps(v, default=list)}" for k, v in parameters(part).items()),
        ]
    )


def _value(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return tuple(found) if isinstance(found, list) else found
