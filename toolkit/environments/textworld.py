"""TextWorld (arXiv 1806.11532): text adventures, generated from a row's seed or read from the row's file."""

import tempfile
import warnings
from pathlib import Path
from threading import Lock
from typing import Any

from edgewise.toolkit.environments.level import SEED_COLUMN, check_size
from edgewise.toolkit.environments.protocol import Turn
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.types import Example
from edgewise.toolkit.util.seeds import derive_seed

GAME_COLUMN = "game"
"""Column of a row that names the file of a game; without it a game is generated from the column "seed", or the id."""

# TextWorld's generator keeps global state, and environments run in threads.
_LOCK = Lock()


class TextWorld:
    """
    Game of `rooms` rooms and `objects` things, whose quest takes `quest` commands; the game's score is the reward.

    Needs pip install 'edgewise[worlds]', which exists for Linux and macOS. Generated games are stored in `folder`, by
    default in the machine's temporary folder, so that the rollouts of a group share one file.
    """

    def __init__(self, rooms: int = 3, objects: int = 5, quest: int = 3, folder: str | None = None):
        for name, value in (("rooms", rooms), ("objects", objects), ("quest", quest)):
            check_size("textworld", name, value, 1, 100)
        try:
            import textworld  # pyright: ignore[reportMissingImports]
            import textworld.generator  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise TaskError(
                f"the world textworld needs TextWorld, which can't be imported ({error}): "
                "pip install 'edgewise[worlds]'"
            ) from error
        # TextWorld warns of every game that it generates, and plays it all the same.
        warnings.filterwarnings("ignore", message="Game .* is not fully supported")
        self._textworld: Any = textworld
        self._sizes = {"nb_rooms": rooms, "nb_objects": objects, "quest_length": quest}
        self._folder = Path(folder or Path(tempfile.gettempdir()) / "edgewise-textworld")
        self._game: Any = None

    def reset(self, row: Example) -> Turn:
        """Return the start of the row's game."""
        seed = derive_seed("level", str(row.metadata.get(SEED_COLUMN, row.id)))
        file = row.metadata.get(GAME_COLUMN) or self._generate_game(seed)
        if not Path(file).is_file():
            raise TaskError(f"there is no game {file}")
        infos = ("admissible_commands", "won", "description", "inventory", "objective")
        requested = self._textworld.EnvInfos(feedback=True, **dict.fromkeys(infos, True))
        with _LOCK:
            self._game = self._textworld.start(str(file), requested)
            state = self._game.reset()
        self._score, self._objective = 0.0, _strip_prompt(state.objective)
        return self._turn(state, "", 0.0, False)

    def step(self, action: str) -> Turn:
        """Send a command; its reward is what it adds to the score."""
        state, score, done = self._game.step(action)
        reward, self._score = score - self._score, float(score)
        return self._turn(state, _strip_prompt(state.feedback), reward, done)

    def close(self) -> None:
        """Close the game."""
        if self._game is not None:
            self._game.close()

    def _generate_game(self, seed: int) -> Path:
        """Return the file of a seed's game; generate it unless it exists."""
        sizes = "-".join(map(str, self._sizes.values()))
        path = self._folder / f"game-{sizes}-{seed}.z8"
        with _LOCK:
            if path.is_file():
                return path
            options = self._textworld.GameOptions()
            options.seeds = seed
            for name, value in self._sizes.items():
                setattr(options, name, value)
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                options.path = str(Path(folder) / path.name)
                game = self._textworld.generator.make_game(options)
                compiled = Path(self._textworld.generator.compile_game(game, options))
                # Renamed into place, since another process may generate the same game.
                for file in compiled.parent.iterdir():
                    file.replace(self._folder / file.name)
        return path

    def _turn(self, state: Any, feedback: str, reward: float, done: bool) -> Turn:
        """Return a turn that shows the objective, the feedback, the room and the inventory."""
        if done:  # no action is possible, and the feedback says how it ended
            return Turn(feedback, (), float(reward), True, bool(state.won))
        # All of it in each turn, so that a prompt with few past turns still shows everything that matters.
        room, inventory = _strip_prompt(state.description), _strip_prompt(state.inventory)
        parts = [self._objective, feedback if feedback not in (room, inventory) else "", room, inventory]
        legal = tuple(state.admissible_commands)
        return Turn("\n\n".join(filter(None, parts)), legal, float(reward), False, bool(state.won))


def _strip_prompt(text: str | None) -> str:
    """Return the text before the game's input prompt, without empty lines."""
    body = (text or "").partition("\n>")[0]
    lines = [line.strip() for line in body.splitlines()]
    return "\n".join(line for line in lines if line)
