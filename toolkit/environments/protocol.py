"""
Environments: what an agent acts in, one action a turn, until it is done.

An environment is any object with `reset(row)` and `step(action)`; `resolve_world` makes a `World` of whatever a task
calls its environment. What runs an agent in one is `toolkit.rollout.episode`.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.registry import ENVIRONMENTS
from edgewise.toolkit.registry import resolve as resolve_name
from edgewise.toolkit.types import BlockingCall, Example, Plan, StopReason
from edgewise.toolkit.util.detached import run_detached
from edgewise.toolkit.util.import_by_name import did_you_mean, load_object

SECONDS = 60.0
"""How long one call of an environment may take."""


@dataclass(frozen=True, slots=True)
class Turn:
    """
    What an environment shows: at the start, and after each action.

    `text` is the state as the agent sees it; states are the same where texts are. `legal` are the actions that are
    possible now, () for any text. `reward` is that of the action before. `success` says whether the aim is reached,
    None where nobody can say.
    """

    text: str
    legal: tuple[str, ...] = ()
    reward: float = 0.0
    done: bool = False
    success: bool | None = None


class Environment(Protocol):
    """
    One copy of a world, for one rollout. Both methods may be async; `close()` is called at the end, where there is one.

    They return a `Turn`, or what Gym's environments return: text, or a tuple of text, reward, done and a dict.
    """

    def reset(self, row: Example) -> Any:
        """Begin. What is shown depends on the row alone, so that all runs of a group begin alike."""
        ...

    def step(self, action: str) -> Any:
        """Carry out an action."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """
    A name, what makes an environment for a rollout, the seconds that a call may take, and the turns that are shown.

    `history` is how many past turns a prompt shows beside the present one, None for all. `spec` is what the
    fingerprint of a task says of it.
    """

    name: str
    make: Callable[[], Any]
    seconds: float = SECONDS
    history: int | None = None
    spec: str = ""


class EnvironmentFailure(Exception):
    """An environment that raised, hung, or gave what is no turn; `stop` is that of its rollout."""

    def __init__(self, stop: StopReason, why: str):
        super().__init__(why)
        self.stop: StopReason = stop


Spec = str | Mapping[str, Any] | Callable[[], Any] | World


# ---- how one is named ----------------------------------------------------------------------------------


def resolve_world(spec: Spec, base: Path | None = None) -> World:
    """
    Make a `World` of `spec`:

    - "house": a built-in by name; "module:Class": yours, looked up beside the task file `base` first
    - {"kind": "house", "rooms": 8}: with options, which become keyword arguments. `seconds` and `history` are ours
    - a class, or a function without arguments that makes an environment

    Raises TaskError for what is not there, and for options that it does not have.
    """
    match spec:
        case World():
            return spec
        case Mapping():
            options = dict(spec)
            kind = options.pop("kind", None)
            if kind is None:
                raise TaskError('a table for an environment needs a kind, such as kind = "house"')
            return _world(kind, options, base)
    return _world(spec, {}, base)


def _world(kind: Any, options: dict[str, Any], base: Path | None) -> World:
    made = _found(kind, base) if isinstance(kind, str) else kind
    if not callable(made):
        raise TaskError(f"an environment is a name, a table, or a class with reset and step, not {made!r}")
    name = kind if isinstance(kind, str) else getattr(made, "__name__", type(made).__name__)
    spec = f"{name} {sorted(options.items())}"
    ours = {"seconds": SECONDS, "history": None}
    seconds, history = (options.pop(key, value) for key, value in ours.items())
    _check_ours(name, seconds, history)
    _check_options(name, made, options)
    make = partial(made, **options) if options else made
    if name in ENVIRONMENTS:
        make()  # Its options are checked now; one of the user's may be dear to make.
    return World(name, make, float(seconds), history, spec)


def _found(name: str, base: Path | None) -> Any:
    if name in ENVIRONMENTS:
        return resolve_name(ENVIRONMENTS, name)
    if ":" not in name:
        raise TaskError(
            f"there is no environment {name!r}{did_you_mean(name, list(ENVIRONMENTS))}; your own is module:Class"
        )
    return load_object(name, base)


def _check_ours(name: str, seconds: Any, history: Any) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise TaskError(f"seconds of the environment {name} must be a number above 0, not {seconds!r}")
    if history is not None and (isinstance(history, bool) or not isinstance(history, int) or history < 0):
        raise TaskError(f"history of the environment {name} must be 0 or more past turns, not {history!r}")


def _check_options(name: str, made: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(made).bind(**options)
    except TypeError as error:
        raise TaskError(f"the environment {name} can't be made with the options given: {error}") from error
    except ValueError:  # some classes of C have no signature
        return


# ---- calls of user code --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure as a value: whoever drives plans takes an exception for its own."""

    stop: StopReason
    why: str


def call_environment(
    world: World,
    what: str,
    function: Callable[..., Any],
    *args: Any,
    read: Callable[[Any], Any] = lambda x: x,
) -> Plan[Any]:
    """What `read` makes of what an environment's function gives. Raises Broken with a sentence; `what` was done."""
    found = yield BlockingCall(_limited, (function, args, world.seconds, read))
    if isinstance(found, _Failure):
        raise EnvironmentFailure(found.stop, f"The environment {world.name} {found.why} ({what}).")
    return found


def get_method(world: World, environment: Any, name: str) -> Callable[..., Any]:
    """One of its methods. Raises Broken where it has none."""
    found = getattr(environment, name, None)
    if not callable(found):
        raise EnvironmentFailure("failed", f"The environment {world.name} has no method {name}.")
    return found


async def _limited(
    function: Callable[..., Any], args: tuple[Any, ...], seconds: float, read: Callable[[Any], Any]
) -> Any:
    """What the function gives, or a failure, so that other rollouts go on."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return read(await run_detached(function, *args))
    except EnvironmentFailure as broken:
        return _Failure(broken.stop, str(broken))
    except Exception as error:
        if limit.expired():
            return _Failure("timeout", f"gave no answer within {seconds:g} seconds")
        return _Failure("failed", f"raised {type(error).__name__}: {error}".rstrip(": "))


# ---- what they give ------------------------------------------------------------------------------------


def parse_turn(given: Any) -> Turn:
    """
    The turn that an environment gave; see `Environment`. Raises Broken for anything else.

    Of Gym's dict "legal" or "admissible_commands", and "success" or "won" are read.
    """
    match given:
        case Turn():
            return _checked(given)
        case str():
            return _checked(Turn(given))
        case (text, Mapping() as info):
            return _checked(_of_gym(text, 0.0, False, info))
        case (text, reward, done):
            return _checked(_of_gym(text, reward, done, {}))
        case (text, reward, done, Mapping() as info):
            return _checked(_of_gym(text, reward, done, info))
        case (text, reward, ended, cut, Mapping() as info):
            return _checked(_of_gym(text, reward, bool(ended or cut), info))
    raise EnvironmentFailure("failed", f"gave {_short(given)} where a Turn, a text or a tuple as Gym's was due")


def _of_gym(text: Any, reward: Any, done: Any, info: Mapping[str, Any]) -> Turn:
    legal = info.get("legal") or info.get("admissible_commands") or ()
    success = info.get("success", info.get("won"))
    return Turn(text, tuple(legal), reward, bool(done), None if success is None else bool(success))


def _checked(turn: Turn) -> Turn:
    """The turn with its reward as a float. Raises Broken where a part of it is of no use."""
    if not isinstance(turn.text, str):
        raise EnvironmentFailure("failed", f"gave {_short(turn.text)} as a state where a text was due")
    if isinstance(turn.legal, str) or not all(isinstance(action, str) for action in turn.legal):
        raise EnvironmentFailure("failed", f"gave {_short(turn.legal)} as legal actions where texts were due")
    try:
        reward = float(turn.reward)
    except (TypeError, ValueError):
        reward = math.nan
    if not math.isfinite(reward):
        raise EnvironmentFailure("failed", f"gave {_short(turn.reward)} as a reward where a finite number was due")
    return Turn(turn.text, tuple(turn.legal), reward, bool(turn.done), turn.success)


def _short(given: Any) -> str:
    text = repr(given)
    return f"a {type(given).__name__} ({text if len(text) <= 60 else text[:57] + '...'})"
