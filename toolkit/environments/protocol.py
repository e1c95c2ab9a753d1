"""
Environments: an agent acts in one, one action per turn, until it is done.

An environment is any object with two methods, sync or async; one object serves one rollout:

    reset(row)      starts; the first state depends on the row alone, so that all rollouts of a group start in the same
    step(action)    carries out an action

They return a `Turn`, or what environments of Gym return: text, or a tuple of text, reward, done and a dict. An optional
`close()` is called at the end. `resolve_world` makes a `World` of the environment that a task names.
`toolkit.rollout.episode` runs an agent in it.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.registry import ENVIRONMENTS, resolve
from edgewise.toolkit.types import BlockingCall, Plan, StopReason
from edgewise.toolkit.util.detached import run_detached
from edgewise.toolkit.util.import_by_name import did_you_mean, load_object

SECONDS = 60.0
"""Default time limit of one call of an environment."""


@dataclass(frozen=True, slots=True)
class Turn:
    """
    What an environment shows: at the start, and after each action.

    `text` is the state as the agent sees it; equal texts are equal states. `legal` are the actions that are possible
    now, () where any text is. `reward` is that of the previous action. `success` says whether the aim is reached, None
    where the environment can't say.
    """

    text: str
    legal: tuple[str, ...] = ()
    reward: float = 0.0
    done: bool = False
    success: bool | None = None


@dataclass(frozen=True, slots=True)
class World:
    """
    A named source of environments: `make` returns a new one for each rollout.

    `seconds` limits one call of an environment. `history` is how many past turns a prompt shows before the present
    one, None for all. `spec` goes into the fingerprint of a task.
    """

    name: str
    make: Callable[[], Any]
    seconds: float = SECONDS
    history: int | None = None
    spec: str = ""


class EnvironmentFailure(Exception):
    """Environment that raised, hung, or returned no turn; `stop` is the stop reason of its rollout."""

    def __init__(self, stop: StopReason, reason: str):
        super().__init__(reason)
        self.stop: StopReason = stop


Spec = str | Mapping[str, Any] | Callable[[], Any] | World


# ---- environments of a task ------------------------------------------------------------------------


def resolve_world(spec: Spec, base: Path | None = None) -> World:
    """
    Return the `World` of a task's environment:

    - "house": a built-in one by name; "module:Class": the user's, looked up next to the task file `base` first
    - {"kind": "house", "rooms": 8}: with keyword arguments of the class, and with `seconds` and `history`
    - a class, or a function without arguments that makes an environment

    Raises TaskError for an unknown environment, and for options that it does not have.
    """
    if isinstance(spec, World):
        return spec
    kind, options = spec, {}
    if isinstance(spec, Mapping):
        options = dict(spec)
        kind = options.pop("kind", None)
        if kind is None:
            raise TaskError('a table for an environment needs a kind, such as kind = "house"')

    make: Any = kind
    if isinstance(kind, str):
        if kind not in ENVIRONMENTS and ":" not in kind:
            hint = did_you_mean(kind, list(ENVIRONMENTS))
            raise TaskError(f"there is no environment {kind!r}{hint}; your own is module:Class")
        make = resolve(ENVIRONMENTS, kind) if kind in ENVIRONMENTS else load_object(kind, base)
    if not callable(make):
        raise TaskError(f"an environment is a name, a table, or a class with reset and step, not {make!r}")
    name = kind if isinstance(kind, str) else getattr(make, "__name__", type(make).__name__)
    # The text with all options: it is part of task fingerprints in stored runs, so its form may not change.
    text = f"{name} {sorted(options.items())}"

    # Two options are ours, the others are arguments of the class.
    seconds, history = options.pop("seconds", SECONDS), options.pop("history", None)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise TaskError(f"seconds of the environment {name} must be a number above 0, not {seconds!r}")
    if history is not None and (isinstance(history, bool) or not isinstance(history, int) or history < 0):
        raise TaskError(f"history of the environment {name} must be 0 or more past turns, not {history!r}")
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise TaskError(f"the environment {name} can't be made with the options given: {error}") from error
    except ValueError:
        pass  # some classes written in C have no signature
    bound = partial(make, **options) if options else make
    if name in ENVIRONMENTS:
        bound()  # checks the values of options now; the user's environments may be slow to make
    return World(name, bound, float(seconds), history, text)


# ---- calls of user code ----------------------------------------------------------------------------


def call_environment(
    world: World, step: str, function: Callable[..., Any], *args: Any, read: Callable[[Any], Any] = lambda x: x
) -> Plan[Any]:
    """
    Call a function of an environment and return `read` of its result.

    Raises EnvironmentFailure with a sentence, in which `step` names the call.
    """

    async def call() -> tuple[Any, EnvironmentFailure | None]:
        limit = asyncio.timeout(world.seconds)
        try:
            async with limit:
                return read(await run_detached(function, *args)), None
        except EnvironmentFailure as failure:
            return None, failure
        except Exception as error:
            # The environment's own TimeoutError isn't ours.
            if limit.expired():
                return None, EnvironmentFailure("timeout", f"gave no answer within {world.seconds:g} seconds")
            return None, EnvironmentFailure("failed", f"raised {type(error).__name__}: {error}".rstrip(": "))

    # A failure comes back in a tuple: an exception would end the whole run, see `toolkit.types.Plan`, and the driver
    # takes a bare one for an error of its own where plans run concurrently.
    result, failure = yield BlockingCall(call)
    if failure:
        raise EnvironmentFailure(failure.stop, f"The environment {world.name} {failure} ({step}).")
    return result


def get_method(world: World, environment: Any, name: str) -> Callable[..., Any]:
    """Return a method of an environment. Raises EnvironmentFailure where it has none of that name."""
    method = getattr(environment, name, None)
    if not callable(method):
        raise EnvironmentFailure("failed", f"The environment {world.name} has no method {name}.")
    return method


# ---- turns -----------------------------------------------------------------------------------------


def parse_turn(value: Any) -> Turn:
    """
    Return the turn in the result of `reset` or `step`. Raises EnvironmentFailure for anything else.

    Of Gym's dict, "legal" or "admissible_commands", and "success" or "won" are read.
    """
    match value:
        case Turn():
            turn = value
        case str():
            turn = Turn(value)
        # Gym's forms, from `reset` to the `step` of Gymnasium with its two reasons to end.
        case (text, Mapping() as info):
            turn = _read_gym(text, 0.0, False, info)
        case (text, reward, done):
            turn = _read_gym(text, reward, done, {})
        case (text, reward, done, Mapping() as info):
            turn = _read_gym(text, reward, done, info)
        case (text, reward, terminated, truncated, Mapping() as info):
            turn = _read_gym(text, reward, bool(terminated or truncated), info)
        case _:
            raise _bad_value(value, "where a Turn, a text or a tuple as Gym's was due")

    if not isinstance(turn.text, str):
        raise _bad_value(turn.text, "as a state where a text was due")
    if isinstance(turn.legal, str) or not all(isinstance(action, str) for action in turn.legal):
        raise _bad_value(turn.legal, "as legal actions where texts were due")
    try:
        reward = float(turn.reward)
    except (TypeError, ValueError):
        reward = math.nan
    if not math.isfinite(reward):
        raise _bad_value(turn.reward, "as a reward where a finite number was due")
    return Turn(turn.text, tuple(turn.legal), reward, bool(turn.done), turn.success)


def _read_gym(text: Any, reward: Any, done: Any, info: Mapping[str, Any]) -> Turn:
    legal = info.get("legal") or info.get("admissible_commands") or ()
    success = info.get("success", info.get("won"))
    return Turn(text, tuple(legal), reward, bool(done), None if success is None else bool(success))


def _bad_value(value: Any, expectation: str) -> EnvironmentFailure:
    text = repr(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return EnvironmentFailure("failed", f"gave a {type(value).__name__} ({short}) {expectation}")
