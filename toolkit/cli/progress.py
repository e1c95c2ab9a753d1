"""What a person sees of a run, on standard error: a live line on a terminal, plain lines otherwise."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from edgewise.toolkit.tracking.events import (
    Event,
    ReplyReceived,
    RolloutFinished,
    RunClosed,
    RunOpened,
    RunStopping,
    StageStarted,
    StepFinished,
)

EVERY = 5.0


def show_progress(stream: TextIO | None = None) -> Callable[[Event], None]:
    """
    A function for notes that shows the stage, rollouts so far, their mean reward, calls and cost.

    On standard error unless another stream is given.
    """
    return _Progress(stream or sys.stderr)


def announce(lines: Iterable[str]) -> None:
    """Print lines on standard error."""
    print(*lines, sep="\n", file=sys.stderr)


class _Progress:
    def __init__(self, stream: TextIO):
        self._stream, self._live = stream, stream.isatty()
        self._ledger: Any = None
        self._stage, self._rewards = "starting", list[float]()
        self._shown, self._started = 0.0, time.monotonic()

    def __call__(self, note: Event) -> None:
        match note:
            case RunOpened(path, ledger):
                self._ledger = ledger
                self._say(f"run directory: {path}")
            case StageStarted(stage):
                self._stage, self._rewards = stage, []
                self._say(self._line())
            case RolloutFinished(run):
                self._rewards.append(run.score.value if run.score and run.score.valid else 0.0)
            case ReplyReceived():
                self._tick()
            case StepFinished(record):
                self._say(record.summary())
            case RunStopping():
                self._say("stopping: calls under way may finish; Ctrl-C again drops them")
            case RunClosed() if self._live:
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def _tick(self) -> None:
        pause = 0.1 if self._live else EVERY
        if time.monotonic() - self._shown < pause:
            return
        self._shown = time.monotonic()
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{self._line()[:width]}")
            self._stream.flush()
        else:
            self._say(self._line())

    def _line(self) -> str:
        done = len(self._rewards)
        mean = f", mean reward {sum(self._rewards) / done:.2f}" if done else ""
        rollouts = f": {done} rollouts{mean}" if done else ""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes:02}:{seconds:02} {self._stage}{rollouts}{self._spent()}"

    def _spent(self) -> str:
        if not self._ledger:
            return ""
        total = self._ledger.total
        price = "price unknown" if total.usd is None else f"${total.usd:.4f}"
        return f" | {total.calls:,} calls, {total.tokens:,} tokens, {price}"

    def _say(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}\n" if self._live else f"{line}\n")
        self._stream.flush()
