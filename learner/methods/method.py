"""
A method as a value: one part for each axis, and what a part may see. Nothing here knows a single method.

     axis        signature                                  acts on                  default
  1  select      rows, memory, rng, k -> rows               before sampling          in turn
  2  plan        SamplingRequest -> Plan of groups          during sampling          the same number for each row
  3  shape       Table -> [N] reward                        finished groups          as it is
  4  keep        Table -> [N] bool                          finished groups          all
  5  advantage   Table -> [N]                               rows that pass `keep`    centred / std
  6  credit      Table, [N] -> [M]                          steps                    the rollout's, for each
  7  weigh       Batch -> [B, T]                            the whole batch          per sequence
  8  loss        LossInputs -> [b, T]                       each slice               clipped
  9  penalties   LossInputs -> [b, T], several              each slice               none
 10  epochs, minibatches                                    the optimizer            1, 1

N rollouts, M steps of them, B = M sequences in a batch, b in a slice of it, T tokens of the longest reply.

Axes 1 to 6 are numpy and live in `toolkit.groups`. Axes 7 to 9 are torch: `token_weights`, `losses`, `penalties` in
this room. Statistics of the batch are computed before it is sliced. Losses give a value for each token and never
divide.
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
from edgewise.learner.methods.batch import LossInputs
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.groups import advantage
from edgewise.toolkit.groups import filters as keep
from edgewise.toolkit.groups import reward_shaping as shape
from edgewise.toolkit.groups import step_credit as credit
from edgewise.toolkit.groups.sampling import hints, replay
from edgewise.toolkit.groups.sampling import rollout_plan as plan
from edgewise.toolkit.groups.sampling import row_selection as select
from edgewise.toolkit.groups.table import Table
from edgewise.toolkit.util.import_by_name import did_you_mean

Part = Callable[..., Any]
AXIS_MODULES: Mapping[str, tuple[ModuleType, ...]] = {
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
"""Modules that hold the parts of each axis."""
AXES = tuple(AXIS_MODULES)
COUNT_AXES = ("epochs", "minibatches")
SHARED_PARAMETERS = ("best", "full")
"""Parameters that must have one value in all parts of a method: rewards of the same meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """
    A published method: how to sample, how to compare rollouts, and what loss to minimise.

    `paper` is an arXiv id, `differs` the difference from GRPO. `note` says where paper and public code differ, and
    which one this follows. `reconstructed` means that the paper leaves formulas open, which are filled in here.
    `epochs` are passes over a batch, `minibatches` optimizer steps in each. With more than one step in all, the ratio
    to the policy that sampled moves away from 1.
    """

    paper: str = ""
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
        """Yield all parts, in the order of the axes."""
        for axis in AXES[:-1]:
            yield getattr(self, axis)
        yield from self.penalties

    @property
    def required_columns(self) -> frozenset[str]:
        """Names of the columns that any part reads; the training loop computes no others."""
        return frozenset().union(*(columns_of(part) for part in self.parts()))

    @property
    def recalls(self) -> frozenset[str]:
        """Names of the collections of `row_history.Memory` that any part reads; others stay empty."""
        return frozenset().union(*(getattr(function_of(part), "recalls", ()) for part in self.parts()))

    @property
    def needs_whole_groups(self) -> bool:
        """Whether a loss compares sequences of a group, so that a slice must not cut one."""
        return "group" in self.required_columns


def compute_advantages(method: Method, table: Table) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """
    Return which rollouts go into the update, [N], and the advantage of each step, [M]: axes 3 to 6.

    `keep` sees the rewards as given; `advantage` and `credit` see shaped rewards of the rollouts that `keep` selects.
    Steps of other rollouts get 0.
    """
    selection = method.keep(table.select_columns(columns_of(method.keep)))  # [N]
    shaped = method.shape(table.select_columns(columns_of(method.shape)))  # [N]
    part = replace(table, reward=shaped).select_rollouts(selection)

    advantages = method.advantage(part.select_columns(columns_of(method.advantage)))
    credits = np.zeros(len(table.rollout))  # [M]; `table.rollout` has the rollout of each step
    credits[selection[table.rollout]] = method.credit(part.select_columns(columns_of(method.credit)), advantages)
    return selection, credits


def compute_losses(method: Method, x: LossInputs) -> Tensor:
    """Return the sum of the loss and the penalties, [b, T], not weighted."""
    losses = method.loss(x.select_columns(columns_of(method.loss)))
    for part in method.penalties:
        losses = losses + part(x.select_columns(columns_of(part)))
    return losses


def columns_of(part: Part) -> frozenset[str]:
    """Return the columns that a part declares with `reads_columns`."""
    return getattr(function_of(part), "columns", frozenset())


def describe(method: Method) -> list[str]:
    """Return one line for each axis: the part and its parameters, in the syntax of `override`."""
    lines = [f"{axis}: {_render_part(getattr(method, axis))}" for axis in AXES[:-1]]
    lines += [f"penalties: {', '.join(map(_render_part, method.penalties)) or 'none'}"]
    return [*lines, *(f"{name}: {getattr(method, name)}" for name in COUNT_AXES)]


def limit_lengths(method: Method, tokens: int, replies: int = 1) -> Method:
    """
    Return the method for rollouts of at most `replies` replies of at most `tokens` tokens.

    It sets the parameter `limit` of every part that has one. Parts that read the column "length", of whole rollouts,
    get the limit of all replies together.
    """
    limits: dict[str, Part] = {}
    for axis in AXES[:-1]:
        part = getattr(method, axis)
        if "limit" in parameters_of(part):
            limits[axis] = partial(part, limit=tokens * (replies if "length" in columns_of(part) else 1))
    return replace(method, **limits)


# ---- settings ----------------------------------------------------------------------------------------------


def override(method: Method, *settings: str) -> Method:
    """
    Return the method with other parameters or parts: "loss.high=0.28", "epochs=2" or "penalties.kl3.beta=0.1".

    "loss=clipped_weight" takes another part of the axis, with its own defaults. "penalties=kl3,entropy" takes several
    parts, "penalties=none" none. Values are JSON, or plain words. Raises ConfigError for an unknown name, with the
    names that exist, and if two parts get different values of a shared parameter.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} is no setting of a method: write it as loss.high=0.28.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        # JSON has no tuples, and the strict validation of parameters takes no list for one.
        method = _apply_setting(method, name.split("."), tuple(value) if isinstance(value, list) else value)

    for name in SHARED_PARAMETERS:
        values = {axis: parameters_of(getattr(method, axis)).get(name) for axis in AXES[:-1]}
        values = {axis: value for axis, value in values.items() if value is not None}
        if len(set(values.values())) > 1:
            listing = ", ".join(f"{axis}.{name}={value:g}" for axis, value in values.items())
            raise ConfigError(f"{listing}: all of these must be the same reward, so set each of them.")
    return method


def _apply_setting(method: Method, path: Sequence[str], value: Any) -> Method:
    match path:
        case [name] if name in COUNT_AXES:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is a whole number from 1, not {value!r}.")
            return replace(method, **{name: value})
        case ["penalties"]:
            names = value.split(",") if isinstance(value, str) and value != "none" else ()
            return replace(method, penalties=tuple(_find_part("penalties", name.strip()) for name in names))
        case [axis] if axis in AXES:
            return replace(method, **{axis: _find_part(axis, value)})
        case ["penalties", penalty_name, name]:
            names = [function_of(part).__name__ for part in method.penalties]
            if penalty_name not in names:
                raise ConfigError(f"This method has no penalty {penalty_name!r}{did_you_mean(penalty_name, names)}")
            penalties = tuple(
                _set_parameter(part, name, value) if own == penalty_name else part
                for own, part in zip(names, method.penalties, strict=True)
            )
            return replace(method, penalties=penalties)
        case [axis, name] if axis in AXES[:-1]:
            return replace(method, **{axis: _set_parameter(getattr(method, axis), name, value)})
    known = [*AXES, *COUNT_AXES]
    raise ConfigError(f"{'.'.join(path)!r} is no setting of a method{did_you_mean(path[0], known)}")


def list_parts(axis: str) -> dict[str, Part]:
    """Return the parts of an axis by name: public functions of its modules with the same arguments as its default."""

    def arguments(part: Part) -> list[str]:
        """Return the names of the arguments that the training loop passes."""
        signature = inspect.signature(part).parameters.values()
        return [p.name for p in signature if p.kind is not p.KEYWORD_ONLY]

    usual = penalty.kl3 if axis == "penalties" else Method.__dataclass_fields__[axis].default
    return {
        name: part
        for module in AXIS_MODULES[axis]
        for name, part in vars(module).items()
        if inspect.isfunction(part)
        and part.__module__ == module.__name__
        and not name.startswith("_")
        and arguments(part) == arguments(usual)
    }


def _find_part(axis: str, name: Any) -> Part:
    known = list_parts(axis)
    if name not in known:
        raise ConfigError(f"{axis} has no part {name!r}{did_you_mean(str(name), list(known))}")
    return known[name]


def _set_parameter(part: Part, name: str, value: Any) -> Part:
    function, known = function_of(part), parameters_of(part)
    if name not in known:
        has = f"; it has {', '.join(known)}" if known else ": it has none"
        raise ConfigError(f"{function.__name__} has no parameter {name!r}{has}.")
    kind = inspect.signature(function).parameters[name].annotation
    adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    try:
        return partial(part, **{name: adapter.validate_python(value, strict=True)})
    except ValidationError as error:
        usual, why = json.dumps(known[name]), error.errors(include_url=False)[-1]["msg"]
        what = f"{name}={value!r} does not fit {function.__name__}, where it is {usual}"
        raise ConfigError(f"{what}: {why[:1].lower()}{why[1:]}.") from error


def parameters_of(part: Part) -> dict[str, Any]:
    """Return the parameters of a part, which are its keyword-only arguments, with their values."""
    own = part.keywords if isinstance(part, partial) else {}
    signature = inspect.signature(function_of(part)).parameters.values()
    return {p.name: own.get(p.name, p.default) for p in signature if p.kind is p.KEYWORD_ONLY}


def function_of(part: Part) -> Part:
    """Return the function of a part, without the parameters that are set."""
    # `partial` of a `partial` is flat: one level is enough.
    return part.func if isinstance(part, partial) else part


def _render_part(part: Part) -> str:
    settings = (f"{name}={json.dumps(value, default=list)}" for name, value in parameters_of(part).items())
    return " ".join([function_of(part).__name__, *settings])
