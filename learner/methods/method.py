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

Axes 1 to 6 are numpy and live in `toolkit.groups`; 7 to 9 are torch, in `learner.methods.token_weights`, `learner.methods.losses` and
`learner.methods.penalties`. What needs a statistic of the batch is computed before it is sliced; losses give a value for each
token and never divide.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from edgewise.learner.methods import losses as loss
from edgewise.learner.methods import penalties as penalty
from edgewise.learner.methods import token_weights as weigh
from edgewise.learner.methods.batch import Tokens
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.groups import advantage
from edgewise.toolkit.groups import filters as keep
from edgewise.toolkit.groups import reward_shaping as shape
from edgewise.toolkit.groups import step_credit as credit
from edgewise.toolkit.groups.sampling import hints, replay
from edgewise.toolkit.groups.sampling import rollout_plan as plan
from edgewise.toolkit.groups.sampling import row_selection as select
from edgewise.toolkit.groups.table import Table, reads
from edgewise.toolkit.util.import_by_name import did_you_mean

Part = Callable[..., Any]
HOMES: Mapping[str, tuple[ModuleType, ...]] = {
    "select": (select,),
    "plan": (plan, hints, replay),
    "shape": (shape,),
    "keep": (keep,),
    "advantage": (advantage,),
    "credit": (credit,),
    "weigh": (weigh,),
    "loss": (loss,),
    "penalties": (penalty,),
}
"""Where the parts of each axis live."""
AXES = tuple(HOMES)
NUMBERS = ("epochs", "minibatches")
REWARDS = ("best", "full")
"""Parameters that mean one reward, whichever part has them."""

__all__ = ["AXES", "Method", "credited", "describe", "limited", "override", "reads", "values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """
    What to sample, how runs are compared, and what is descended on.

    `paper` is an arXiv id, `differs` says in what from GRPO, `note` where paper and public code part, and which side
    this is; `reconstructed` that the paper leaves formulas open, which are filled in here.
    `epochs` are passes over a batch, `minibatches` optimizer steps in each; beyond one in all, the ratio to the
    policy that sampled moves away from 1.
    """

    paper: str
    differs: str = ""
    note: str = ""
    reconstructed: bool = False
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
    def recalls(self) -> frozenset[str]:
        """Names of `toolkit.groups.sampling.row_history.Memory`'s collections that any part reads; others stay empty."""
        return frozenset().union(*(getattr(function(part), "recalls", ()) for part in self.parts()))

    @property
    def whole_groups(self) -> bool:
        """Whether a loss compares sequences of a group, so that a slice must not cut one."""
        return "group" in self.needs


def credited(method: Method, table: Table) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """
    (N,) which rollouts go into the update, and (M,) what each step gets: axes 3 to 6.

    `keep` sees the rewards as they were given, `advantage` and `credit` the shaped ones of what is kept. Steps of a
    rollout that is not kept get 0.
    """
    kept = method.keep(table.only(columns(method.keep)))
    shaped = method.shape(table.only(columns(method.shape)))
    part = table.with_reward(shaped).rows(kept)
    gain = method.advantage(part.only(columns(method.advantage)))
    found = np.zeros(len(table.rollout))
    found[kept[table.rollout]] = method.credit(part.only(columns(method.credit)), gain)
    return kept, found


def values(method: Method, x: Tokens) -> Tensor:
    """(b, T) the loss and the penalties together, not weighed."""
    found = method.loss(x.only(columns(method.loss)))
    for part in method.penalties:
        found = found + part(x.only(columns(part)))
    return found


def columns(part: Part) -> frozenset[str]:
    """The columns that a part declares with `reads`."""
    return getattr(function(part), "columns", frozenset())


def describe(method: Method) -> list[str]:
    """One line for each axis: the part and its parameters, written so that `override` takes them."""
    lines = [f"{axis}: {_shown(getattr(method, axis))}" for axis in AXES[:-1]]
    lines += [f"penalties: {', '.join(map(_shown, method.penalties)) or 'none'}"]
    return [*lines, *(f"{name}: {getattr(method, name)}" for name in NUMBERS)]


def limited(method: Method, tokens: int, replies: int = 1) -> Method:
    """
    The method for rollouts of at most so many replies of so many tokens: the parameter `limit` of whatever part has it.

    That of a part which reads the `length` of whole rollouts is that of all their replies.
    """
    found = {axis: part for axis in AXES[:-1] if "limit" in parameters(part := getattr(method, axis))}
    return replace(
        method,
        **{
            axis: partial(part, limit=tokens * (replies if "length" in columns(part) else 1))
            for axis, part in found.items()
        },
    )


def override(method: Method, *settings: str) -> Method:
    """
    The method with other parameters, such as "loss.high=0.28", "epochs=2" or "penalties.kl3.beta=0.1", or parts.

    "loss=clipped_weight" takes another part of the axis, with its own defaults; "penalties=kl3,entropy" several, and
    "penalties=none" none. Values are JSON, or words. Raises ConfigError for a name that no part has, with those that
    it has, and where parts are told two things of one.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} is no setting of a method: write it as loss.high=0.28.")
        method = _set(method, name.split("."), _value(value))
    _check_agreement(method)
    return method


def _check_agreement(method: Method) -> None:
    """Raise ConfigError where two parts take different rewards for the best or the full one."""
    for name in REWARDS:
        found = {axis: parameters(getattr(method, axis)).get(name) for axis in AXES[:-1]}
        told = [f"{axis}.{name}={value:g}" for axis, value in found.items() if value is not None]
        if len({value for value in found.values() if value is not None}) > 1:
            raise ConfigError(
                f"{', '.join(told)}: all of these must be the same reward, so set each of them."
            )


def _set(method: Method, path: Sequence[str], value: Any) -> Method:
    match path:
        case [name] if name in NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is a whole number from 1, not {value!r}.")
            return replace(method, **{name: value})
        case ["penalties"]:
            names = value.split(",") if isinstance(value, str) and value != "none" else ()
            return replace(method, penalties=tuple(_part("penalties", name.strip()) for name in names))
        case [axis] if axis in AXES:
            return replace(method, **{axis: _part(axis, value)})
        case ["penalties", which, name]:
            names = [function(part).__name__ for part in method.penalties]
            if which not in names:
                raise ConfigError(f"This method has no penalty {which!r}{did_you_mean(which, names)}")
            changed = [
                _with(part, name, value) if known == which else part
                for known, part in zip(names, method.penalties, strict=True)
            ]
            return replace(method, penalties=tuple(changed))
        case [axis, name] if axis in AXES[:-1]:
            return replace(method, **{axis: _with(getattr(method, axis), name, value)})
    known = [*AXES, *NUMBERS]
    raise ConfigError(f"{'.'.join(path)!r} is no setting of a method{did_you_mean(path[0], known)}")


def choices(axis: str) -> dict[str, Part]:
    """The parts of an axis by name: the public functions of its modules that are called as its default is."""
    usual = {"penalties": penalty.kl3}.get(axis) or Method.__dataclass_fields__[axis].default
    return {
        name: found
        for home in HOMES[axis]
        for name, found in vars(home).items()
        if inspect.isfunction(found)
        and found.__module__ == home.__name__
        and not name.startswith("_")
        and _given(found) == _given(usual)
    }


def _part(axis: str, name: Any) -> Part:
    known = choices(axis)
    if name not in known:
        raise ConfigError(f"{axis} has no part {name!r}{did_you_mean(str(name), list(known))}")
    return known[name]


def _with(part: Part, name: str, value: Any) -> Part:
    base, known = function(part), parameters(part)
    if name not in known:
        has = f"; it has {', '.join(known)}" if known else ": it has none"
        raise ConfigError(f"{base.__name__} has no parameter {name!r}{has}.")
    kind = inspect.signature(base).parameters[name].annotation
    try:
        found = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError as error:
        usual, why = json.dumps(known[name]), error.errors(include_url=False)[-1]["msg"]
        what = f"{name}={value!r} does not fit {base.__name__}, where it is {usual}"
        raise ConfigError(f"{what}: {why[:1].lower()}{why[1:]}.") from error
    return partial(part, **{name: found})


def parameters(part: Part) -> dict[str, Any]:
    """The parameters of a part and their values: those that are given by keyword only."""
    given = part.keywords if isinstance(part, partial) else {}
    found = inspect.signature(function(part)).parameters.values()
    return {p.name: given.get(p.name, p.default) for p in found if p.kind is p.KEYWORD_ONLY}


def _given(part: Part) -> list[str]:
    """Names of the parameters that the loop gives."""
    found = inspect.signature(part).parameters.values()
    return [p.name for p in found if p.kind is not p.KEYWORD_ONLY]


def function(part: Part) -> Part:
    """The function that a part is, without the parameters that it was given."""
    return part.func if isinstance(part, partial) else part


def _shown(part: Part) -> str:
    return " ".join(
        [
            function(part).__name__,
            *(f"{k}={json.dumps(v, default=list)}" for k, v in parameters(part).items()),
        ]
    )


def _value(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return tuple(found) if isinstance(found, list) else found
