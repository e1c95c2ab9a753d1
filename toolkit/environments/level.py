"""
Levels: small deterministic worlds with known states, so that the value of each action is known as well.

A `Level` is the map of one row. `LevelEnvironment` plays it, with a reward of 1 when it is won. `compute_action_values`
gives the values of all actions by value iteration.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Protocol

from edgewise.toolkit.environments.protocol import Turn
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.types import Example
from edgewise.toolkit.util.seeds import derive_seed

State = Hashable
SEED_COLUMN = "seed"
"""Column of a row that gives its level; the row's id by default."""


class Level(Protocol):
    """States of a world, and the actions that lead from one to another."""

    @property
    def start(self) -> Any:
        """State at the start."""
        ...

    def legal_actions(self, state: Any) -> tuple[str, ...]:
        """Return the actions that are possible in a state."""
        ...

    def next_state(self, state: Any, action: str) -> Any:
        """Return the state after a legal action."""
        ...

    def render(self, state: Any) -> str:
        """Return the text of a state, a different one for each state."""
        ...

    def is_won(self, state: Any) -> bool:
        """Return whether the level is over; there is no other end than to win."""
        ...


class LevelEnvironment(ABC):
    """Environment that plays a level."""

    # The methods are async because they take no time: sync ones would run in a thread each.

    @abstractmethod
    def make_level(self, seed: int) -> Level:
        """Return the level of a seed."""

    async def reset(self, row: Example) -> Turn:
        """Return the start of the row's level."""
        self._level = self.make_level(derive_seed("level", str(row.metadata.get(SEED_COLUMN, row.id))))
        self._state = self._level.start
        return self._turn()

    async def step(self, action: str) -> Turn:
        """Carry out a legal action."""
        self._state = self._level.next_state(self._state, action)
        return self._turn()

    def _turn(self) -> Turn:
        level, state = self._level, self._state
        is_won = level.is_won(state)
        legal = () if is_won else level.legal_actions(state)
        return Turn(level.render(state), legal, float(is_won), is_won, is_won)


def list_states(level: Level) -> list[State]:
    """Return all reachable states in breadth-first order, the start first."""
    states = {level.start: None}  # a dict as an ordered set
    for state in (queue := [level.start]):
        for action in () if level.is_won(state) else level.legal_actions(state):
            successor = level.next_state(state, action)
            if successor not in states:
                states[successor] = None
                queue.append(successor)
    return list(states)


def compute_action_values(
    level: Level, gamma: float = 0.95, aggregate: Callable[[Iterable[float]], float] = max
) -> Mapping[tuple[State, str], float]:
    """
    Return Q(s, a), the value of each action in each state, by value iteration to 1e-12.

    `aggregate` makes the value of a state from those of its actions: max for optimal play, the mean for random play.
    """
    # Q(s, a) = r + gamma * V(s'), with r = 1 and V(s') = 0 if s' is won, else r = 0 (Sutton and Barto 2018, 4.4).
    states = list_states(level)
    transitions = [
        (state, action, level.next_state(state, action))
        for state in states
        if not level.is_won(state)
        for action in level.legal_actions(state)
    ]
    state_values = dict.fromkeys(states, 0.0)
    while True:
        action_values = {
            (state, action): 1.0 if level.is_won(successor) else gamma * state_values[successor]
            for state, action, successor in transitions
        }
        by_state: dict[State, list[float]] = {}
        for (state, _), value in action_values.items():
            by_state.setdefault(state, []).append(value)
        new_values = state_values | {state: aggregate(values) for state, values in by_state.items()}
        if max(abs(new_values[state] - state_values[state]) for state in states) < 1e-12:
            return action_values
        state_values = new_values


def check_size(world: str, name: str, value: Any, low: int, high: int) -> None:
    """Raise TaskError for a size that is no whole number within the bounds."""
    # bool is a kind of int in Python, and True would pass for 1.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise TaskError(f"{name} of the world {world} must be a whole number from {low} to {high}, not {value!r}")
