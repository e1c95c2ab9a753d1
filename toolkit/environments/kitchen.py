"""
Kitchen: put things into the bowl in the order of a hidden recipe, then bake.

Mistakes can be undone, so an agent can learn the recipe by trial, and states come again in every rollout.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from edgewise.toolkit.environments.level import LevelEnvironment, check_size

THINGS = ("flour", "milk", "eggs", "sugar", "salt", "butter", "honey", "nuts", "oats", "yeast")


class Bowl(NamedTuple):
    """State: how many right things are in the bowl, whether a wrong one is on top, whether it is baked."""

    filled: int = 0
    spoilt: bool = False
    baked: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """Things in the kitchen, and those that make the cake, in order."""

    things: tuple[str, ...]
    order: tuple[str, ...]
    start: Bowl = Bowl()

    def legal_actions(self, state: Bowl) -> tuple[str, ...]:
        """Return the actions: add what is not in the bowl, empty it, bake. A spoilt bowl can only be emptied."""
        if state.spoilt:
            return ("empty bowl",)
        adding = [f"add {thing}" for thing in self.things if thing not in self.order[: state.filled]]
        return tuple([*adding, "empty bowl", "bake"] if state.filled else adding)

    def next_state(self, state: Bowl, action: str) -> Bowl:
        """Return the next state: the wrong thing spoils the bowl, and so does baking too early."""
        if action == "empty bowl":
            return Bowl()
        is_complete = state.filled == len(self.order)
        if action == "bake":
            return state._replace(baked=True) if is_complete else state._replace(spoilt=True)
        is_right = not is_complete and action == f"add {self.order[state.filled]}"
        return Bowl(state.filled + 1) if is_right else state._replace(spoilt=True)

    def render(self, state: Bowl) -> str:
        """Return the content of the bowl as text."""
        if state.baked:
            return "The cake is baked."
        inside = ", ".join(self.order[: state.filled]) or "nothing"
        return f"In the bowl: {inside}." + (" It is spoilt." if state.spoilt else "")

    def is_won(self, state: Bowl) -> bool:
        """Return whether the cake is baked."""
        return state.baked


class Kitchen(LevelEnvironment):
    """Recipes of `steps` things, out of `things` in the kitchen."""

    def __init__(self, steps: int = 3, things: int = 4):
        check_size("kitchen", "things", things, 1, len(THINGS))
        check_size("kitchen", "steps", steps, 1, things)
        self._steps, self._things = steps, things

    def make_level(self, seed: int) -> Recipe:
        """Return random things, and some of them in a random order."""
        rng = random.Random(seed)
        things = rng.sample(THINGS, self._things)
        # Sorted, so that the list of actions doesn't give the order away.
        return Recipe(tuple(sorted(things)), tuple(rng.sample(things, self._steps)))
