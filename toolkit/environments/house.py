"""
House: find the key, then the chest that it opens.

Doors form circles, so an agent comes back to rooms, and states come again within a rollout and between rollouts.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edgewise.toolkit.environments.level import LevelEnvironment, check_size

ROOMS = (
    "hall", "kitchen", "cellar", "attic", "study", "library", "pantry", "bedroom", "garden", "garage", "tower",
    "workshop", "nursery", "chapel", "gallery", "stable",
)  # fmt: skip


class Place(NamedTuple):
    """State: the agent's room, whether it has the key, whether the chest is open."""

    room: str
    key: bool = False
    open: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """Rooms with the rooms behind their doors, and the rooms of key and chest."""

    doors: Mapping[str, tuple[str, ...]]
    start: Place
    key: str
    chest: str

    def legal_actions(self, state: Place) -> tuple[str, ...]:
        """Return the actions: doors, the key where it lies, and the chest where it stands, locked or not."""
        actions = [f"go {room}" for room in self.doors[state.room]]
        if state.room == self.key and not state.key:
            actions.append("take key")
        if state.room == self.chest:
            actions.append("open chest")
        return tuple(actions)

    def next_state(self, state: Place, action: str) -> Place:
        """Return the next state; without the key the chest stays shut."""
        if action == "take key":
            return state._replace(key=True)
        if action == "open chest":
            return state._replace(open=state.key)
        return state._replace(room=action.removeprefix("go "))

    def render(self, state: Place) -> str:
        """Return the room, what is in it, and whether the agent has the key."""
        if state.open:
            return "The chest is open."
        sentences = [f"You are in the {state.room}."]
        if state.room == self.key and not state.key:
            sentences.append("A key lies here.")
        if state.room == self.chest:
            sentences.append("A chest stands here.")
        # Part of the text, since states with and without the key differ in value.
        sentences.append("You have the key." if state.key else "You have no key.")
        return " ".join(sentences)

    def is_won(self, state: Place) -> bool:
        """Return whether the chest is open."""
        return state.open


class House(LevelEnvironment):
    """Houses of `rooms` rooms; besides the doors that connect all rooms, `circles` more join any two."""

    def __init__(self, rooms: int = 6, circles: int = 2):
        check_size("house", "rooms", rooms, 3, len(ROOMS))
        check_size("house", "circles", circles, 0, 100)
        self._rooms, self._circles = rooms, circles

    def make_level(self, seed: int) -> Map:
        """Return a random house: the agent starts in the first room, key and chest are in two others."""
        rng = random.Random(seed)
        rooms = rng.sample(ROOMS, self._rooms)

        # A random tree first (each room joins an earlier one), so that every room can be reached; then the circles.
        pairs = {(rooms[rng.randrange(i)], rooms[i]) for i in range(1, len(rooms))}
        free = [(a, b) for i, a in enumerate(rooms) for b in rooms[i + 1 :] if (a, b) not in pairs]
        pairs |= set(rng.sample(free, min(self._circles, len(free))))

        both_ways = pairs | {(b, a) for a, b in pairs}
        doors = {room: tuple(sorted(b for a, b in both_ways if a == room)) for room in rooms}
        key, chest = rng.sample(rooms[1:], 2)
        return Map(doors, Place(rooms[0]), key, chest)
