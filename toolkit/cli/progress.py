"""Progress of a run on standard error: a live line on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

from edgewise.toolkit.tracking.events import (
    Event,
    OnEvent,
    ReplyReceived,
    RolloutFinished,
    RunClosed,
    RunOpened,
    RunStopping,
    StageStarted,
    StepFinished,
)

# A terminal shows every change that an eye can follow; a log file gets a line now and then.
LIVE_SECONDS, PLAIN_SECONDS = 0.1, 5.0
CLEAR_LINE = "\r\x1b[K"


def show_progress(stream: TextIO | None = None) -> OnEvent:
    """
    Return an observer that prints the stage, its rollouts and their mean reward, calls and cost.

    It prints to standard error unless another stream is given.
    """
    return _Progress(stream or sys.stderr)


def announce(lines: Iterable[str]) -> None:
    """Print lines on standard error."""
    print(*lines, sep="\n", file=sys.stderr)


class _Progress:
    def __init__(self, stream: TextIO):
        self._stream, self._is_live = stream, stream.isatty()
        self._ledger: Any = None
        self._stage, self._rewards = "starting", list[float]()
        self._last_update, self._start = 0.0, time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case RunOpened(path, ledger):
                self._ledger = ledger
                self._print(f"run directory: {path}")
            case StageStarted(stage):
                self._stage, self._rewards = stage, []
                self._print(self._render_line())
            case RolloutFinished(rollout):
                # A failed rollout counts as 0, as it does in learning.
                score = rollout.score
                self._rewards.append(score.value if score and score.valid else 0.0)
            case ReplyReceived():
                self._update()
            case StepFinished(record):
                self._print(record.summary())
            case RunStopping():
                self._print("stopping: calls under way may finish; Ctrl-C again drops them")
            case RunClosed() if self._is_live:
                self._write(CLEAR_LINE)

    def _update(self) -> None:
        """Print the line again, unless that was done just now."""
        # Thousands of replies a minute must not become thousands of writes.
        now = time.monotonic()
        if now - self._last_update < (LIVE_SECONDS if self._is_live else PLAIN_SECONDS):
            return
        self._last_update = now
        if self._is_live:
            # A line as wide as the terminal would wrap, and a wrapped line can't be cleared.
            width = shutil.get_terminal_size().columns - 1
            self._write(f"{CLEAR_LINE}{self._render_line()[:width]}")
        else:
            self._print(self._render_line())

    def _render_line(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        line = f"{minutes:02}:{seconds:02} {self._stage}"
        if count := len(self._rewards):
            line += f": {count} rollouts, mean reward {sum(self._rewards) / count:.2f}"
        if self._ledger:
            total = self._ledger.total
            price = "price unknown" if total.usd is None else f"${total.usd:.4f}"
            line += f" | {total.calls:,} calls, {total.tokens:,} tokens, {price}"
        return line

    def _print(self, line: str) -> None:
        self._write(f"{CLEAR_LINE if self._is_live else ''}{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
