"""
Levels: small deterministic worlds whose states are known, so that what each action is worth is known too.

A `Level` is the map of one row. `Played` is the environment of it, with a reward of 1 once it is won. `values` are
those of its states by value iteration.
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
"""The column of a row that its level is made of; without it, it is the row's id."""


class Level(Protocol):
    """States and what leads from one to another."""

    @property
    def start(self) -> Any:
        """The state at the beginning."""
        ...

    def legal(self, state: Any) -> tuple[str, ...]:
        """What can be done."""
        ...

    def after(self, state: Any, action: str) -> Any:
        """The state that a legal action leads to."""
        ...

    def shown(self, state: Any) -> str:
        """A text, another one for each state."""
        ...

    def won(self, state: Any) -> bool:
        """Whether it is over: there is no other end."""
        ...


class LevelEnvironment(ABC):
    """An environment that plays a level. Its methods are async since they take no time: they need no thread."""

    @abstractmethod
    def level(self, seed: int) -> Level:
        """The level of a seed."""

    async def reset(self, row: Example) -> Turn:
        """The start of the row's level."""
        self._level = self.level(derive_seed("level", str(row.metadata.get(SEED_COLUMN, row.id))))
        self._state = self._level.start
        return self._turn()

    async def step(self, action: str) -> Turn:
        """Carry out a legal action."""
        self._state = self._level.after(self._state, action)
        return self._turn()

    def _turn(self) -> Turn:
        level, state = self._level, self._state
        won = level.won(state)
        return Turn(level.shown(state), () if won else level.legal(state), float(won), won, won)


def list_states(level: Level) -> list[State]:
    """All states that can be reached, the start first."""
    found = {level.start: None}
    for state in (queue := [level.start]):
        for action in () if level.won(state) else level.legal(state):
            after = level.after(state, action)
            if after not in found:
                found[after] = None
                queue.append(after)
    return list(found)


def compute_action_values(
    level: Level, gamma: float = 0.95, over: Callable[[Iterable[float]], float] = max
) -> Mapping[tuple[State, str], float]:
    """
    The worth of each action in each state: reward, plus `gamma` times what `over` makes of those in the next state.

    `over` is max for who acts as well as can be, and the mean for who acts at random. By value iteration, to 1e-12.
    """
    pairs = [(s, a, level.after(s, a)) for s in list_states(level) if not level.won(s) for a in level.legal(s)]
    worth = dict.fromkeys(list_states(level), 0.0)
    while True:
        found = {
            (state, action): 1.0 if level.won(after) else gamma * worth[after]
            for state, action, after in pairs
        }
        by_state: dict[State, list[float]] = {}
        for (state, _), value in found.items():
            by_state.setdefault(state, []).append(value)
        new = worth | {state: over(each) for state, each in by_state.items()}
        if max(abs(new[state] - worth[state]) for state in new) < 1e-12:
            return found
        worth = new


def check_size(world: str, name: str, value: Any, low: int, high: int) -> None:
    """Raise TaskError for a size that is no whole number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise TaskError(
            f"{name} of the world {world} must be a whole number from {low} to {high}, not {value!r}"
        )
