"""A kitchen: put things into the bowl in the order of a recipe that nobody tells, then bake. Mistakes can be undone."""

import random
from dataclasses import dataclass
from typing import NamedTuple

from edgewise.toolkit.environments.level import LevelEnvironment, check_size

THINGS = ("flour", "milk", "eggs", "sugar", "salt", "butter", "honey", "nuts", "oats", "yeast")


class Bowl(NamedTuple):
    """How many things are in it, whether one of them is wrong, and whether it is baked."""

    filled: int = 0
    spoilt: bool = False
    baked: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """Things of the kitchen, and those that make the cake, in their order."""

    things: tuple[str, ...]
    order: tuple[str, ...]
    start: Bowl = Bowl()

    def legal(self, state: Bowl) -> tuple[str, ...]:
        """Anything that is not in the bowl; to empty it; to bake what is in it. What is spoilt can only be emptied."""
        if state.spoilt:
            return ("empty bowl",)
        adding = [f"add {thing}" for thing in self.things if thing not in self.order[: state.filled]]
        return tuple([*adding, "empty bowl", "bake"] if state.filled else adding)

    def after(self, state: Bowl, action: str) -> Bowl:
        """The wrong thing spoils what is in the bowl, and so does baking too early."""
        if action == "empty bowl":
            return Bowl()
        done = state.filled == len(self.order)
        if action == "bake":
            return state._replace(baked=True) if done else state._replace(spoilt=True)
        right = not done and action == f"add {self.order[state.filled]}"
        return Bowl(state.filled + 1) if right else state._replace(spoilt=True)

    def shown(self, state: Bowl) -> str:
        """What is in the bowl."""
        if state.baked:
            return "The cake is baked."
        inside = ", ".join(self.order[: state.filled]) or "nothing"
        return f"In the bowl: {inside}." + (" It is spoilt." if state.spoilt else "")

    def won(self, state: Bowl) -> bool:
        """Once the cake is baked."""
        return state.baked


class Kitchen(LevelEnvironment):
    """Recipes of `steps` things, with so many `things` to choose from."""

    def __init__(self, steps: int = 3, things: int = 4):
        check_size("kitchen", "things", things, 1, len(THINGS))
        check_size("kitchen", "steps", steps, 1, things)
        self._steps, self._things = steps, things

    def level(self, seed: int) -> Recipe:
        """The things of a seed, and some of them in an order."""
        rng = random.Random(seed)
        things = rng.sample(THINGS, self._things)
        return Recipe(tuple(sorted(things)), tuple(rng.sample(things, self._steps)))
