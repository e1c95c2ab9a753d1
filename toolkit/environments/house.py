"""A house: find the key, then the chest that it opens. Doors lead in circles, so rooms are seen again and again."""

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
    """Where one is, and what has been done."""

    room: str
    key: bool = False
    open: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """Rooms with the rooms that their doors lead to, and where things are."""

    doors: Mapping[str, tuple[str, ...]]
    start: Place
    key: str
    chest: str

    def legal(self, state: Place) -> tuple[str, ...]:
        """Doors, the key where it lies, and the chest where it stands, locked or not."""
        found = [f"go {room}" for room in self.doors[state.room]]
        if state.room == self.key and not state.key:
            found.append("take key")
        if state.room == self.chest:
            found.append("open chest")
        return tuple(found)

    def after(self, state: Place, action: str) -> Place:
        """Without the key, the chest stays as it is."""
        if action == "take key":
            return state._replace(key=True)
        if action == "open chest":
            return state._replace(open=state.key)
        return state._replace(room=action.removeprefix("go "))

    def shown(self, state: Place) -> str:
        """The room, what is in it, and whether one has the key."""
        if state.open:
            return "The chest is open."
        here = [f"You are in the {state.room}."]
        if state.room == self.key and not state.key:
            here.append("A key lies here.")
        if state.room == self.chest:
            here.append("A chest stands here.")
        return " ".join([*here, "You have the key." if state.key else "You have no key."])

    def won(self, state: Place) -> bool:
        """Once the chest is open."""
        return state.open


class House(LevelEnvironment):
    """Houses of `rooms` rooms: each is joined to an earlier one, and `circles` more doors join any two."""

    def __init__(self, rooms: int = 6, circles: int = 2):
        check_size("house", "rooms", rooms, 3, len(ROOMS))
        check_size("house", "circles", circles, 0, 100)
        self._rooms, self._circles = rooms, circles

    def level(self, seed: int) -> Map:
        """One starts in the first room; key and chest are in two others."""
        rng = random.Random(seed)
        rooms = rng.sample(ROOMS, self._rooms)
        joined = {(rooms[rng.randrange(i)], rooms[i]) for i in range(1, len(rooms))}
        free = [(a, b) for i, a in enumerate(rooms) for b in rooms[i + 1 :] if (a, b) not in joined]
        joined |= set(rng.sample(free, min(self._circles, len(free))))
        both = joined | {(b, a) for a, b in joined}
        doors = {room: tuple(sorted(b for a, b in both if a == room)) for room in rooms}
        key, chest = rng.sample(rooms[1:], 2)
        return Map(doors, Place(rooms[0]), key, chest)
