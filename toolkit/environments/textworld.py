"""TextWorld (arXiv 1806.11532): games of text adventure, made of a row's seed or read from the row's file."""

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
"""The column of a row that names the file of a game; without it one is made of the column "seed", or of the id."""
_MAKING = Lock()  # its generator keeps state of its own


class TextWorld:
    """
    A game of `rooms` rooms and `objects` things, whose quest takes `quest` commands; its score is the reward.

    Needs pip install 'edgewise[worlds]', which is there for Linux and macOS. Made games are kept in `folder`, by
    default one of the machine's temporary ones, so that the runs of a group share one file.
    """

    def __init__(self, rooms: int = 3, objects: int = 5, quest: int = 3, folder: str | None = None):
        for name, value in (("rooms", rooms), ("objects", objects), ("quest", quest)):
            check_size("textworld", name, value, 1, 100)
        self._sizes = {"nb_rooms": rooms, "nb_objects": objects, "quest_length": quest}
        self._folder = Path(folder or Path(tempfile.gettempdir()) / "edgewise-textworld")
        self._textworld = _package()
        self._game: Any = None

    def reset(self, row: Example) -> Turn:
        """The start of the row's game."""
        file = row.metadata.get(GAME_COLUMN) or self._made(derive_seed("level", str(row.metadata.get(SEED_COLUMN, row.id))))
        if not Path(file).is_file():
            raise TaskError(f"there is no game {file}")
        wanted = ("admissible_commands", "won", "description", "inventory", "objective")
        infos = self._textworld.EnvInfos(feedback=True, **dict.fromkeys(wanted, True))
        with _MAKING:
            self._game = self._textworld.start(str(file), infos)
            state = self._game.reset()
        self._score, self._aim = 0.0, _without_prompt(state.objective)
        return self._turn(state, "", 0.0, False)

    def step(self, action: str) -> Turn:
        """Send a command; its reward is what it added to the score."""
        state, score, done = self._game.step(action)
        gained, self._score = score - self._score, float(score)
        return self._turn(state, _without_prompt(state.feedback), gained, done)

    def close(self) -> None:
        """Close the game."""
        if self._game is not None:
            self._game.close()

    def _made(self, seed: int) -> Path:
        """The file of the game of a seed, made if it is not there."""
        sizes = "-".join(map(str, self._sizes.values()))
        path = self._folder / f"game-{sizes}-{seed}.z8"
        with _MAKING:
            if not path.is_file():
                self._make(seed, path)
        return path

    def _make(self, seed: int, path: Path) -> None:
        options = self._textworld.GameOptions()
        options.seeds = seed
        for name, value in self._sizes.items():
            setattr(options, name, value)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            # Renamed into place: another process may be making the same game.
            options.path = str(Path(folder) / path.name)
            made = self._textworld.generator.make_game(options)
            for file in Path(self._textworld.generator.compile_game(made, options)).parent.iterdir():
                file.replace(self._folder / file.name)

    def _turn(self, state: Any, said: str, reward: float, done: bool) -> Turn:
        """The aim, what was said, the room and what one carries: all that one needs to know, however few are shown."""
        if done:
            return Turn(said, (), float(reward), True, bool(state.won))
        room, carried = _without_prompt(state.description), _without_prompt(state.inventory)
        told = [self._aim, said if said not in (room, carried) else "", room, carried]
        legal = tuple(state.admissible_commands)
        return Turn("\n\n".join(filter(None, told)), legal, float(reward), False, bool(state.won))


def _without_prompt(text: str | None) -> str:
    """The text up to the line of the prompt, with single empty lines."""
    body = (text or "").partition("\n>")[0]
    lines = [line.strip() for line in body.splitlines()]
    return "\n".join(line for line in lines if line)


def _package() -> Any:
    try:
        import textworld  # pyright: ignore[reportMissingImports]
        import textworld.generator  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TaskError(
            f"the world textworld needs TextWorld, which can't be imported ({error}): pip install 'edgewise[worlds]'"
        ) from error
    # Said of every game that TextWorld makes, which it plays all the same.
    warnings.filterwarnings("ignore", message="Game .* is not fully supported")
    return textworld
