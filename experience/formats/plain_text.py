"""Lessons out of running text: a prompt, a page of notes, a list."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edgewise.experience.library.library import LEAD
from edgewise.experience.library.operations import shorten
from edgewise.toolkit.errors import LibraryError

BULLET = re.compile(r"(?:[-*+•]|\d{1,3}[.)]|\[G\d+\]\.?)\s+")
HEADING = re.compile(r"#{1,6}\s|(?:[-*_=]\s*){3,}$")
FENCE = re.compile(r"(```|~~~)")
SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])")
LETTERS = 12
"""So many letters count as a word at least: some scripts put no spaces between words."""
MOST_TEXTS = 100_000


@dataclass(slots=True)
class LessonTexts:
    """Texts of lessons as they are found, and how often something was left out or changed on the way."""

    texts: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def note(self, what: str, count: int = 1) -> None:
        """Count something to tell the user."""
        self.counts[what] = self.counts.get(what, 0) + count

    def notes(self) -> list[str]:
        """What was counted, for people."""
        return [f"{what}: {count}" for what, count in self.counts.items() if count]

    def add(self, text: str, words: int) -> None:
        """Take a text as a lesson; as several, cut at the ends of sentences, where it has more words."""
        pieces = list(_pieces(text, words))
        if len(pieces) > 1:
            self.note(f"texts longer than {words} words, split at the ends of sentences")
        if len(self.texts) > MOST_TEXTS:
            raise LibraryError(f"it has more than {MOST_TEXTS:,} texts, which no library has")
        for piece in pieces:
            short = shorten(piece, words)[0][: words * LETTERS]
            self.texts.append(short)
            if short != piece:
                self.note(f"sentences longer than {words} words, cut")


def by_line(text: str, words: int, into: LessonTexts) -> None:
    """A lesson a line or a bullet; an indented line goes on with the one before."""
    _read(text, words, into, lambda line: line[0].isspace())


def by_paragraph(text: str, words: int, into: LessonTexts) -> None:
    """A lesson a bullet or a paragraph."""
    _read(text, words, into, lambda _: True)


def _read(text: str, words: int, into: LessonTexts, goes_on: Callable[[str], bool]) -> None:
    for block, introduces in _blocks(_without_code(text, into), goes_on):
        if HEADING.match(block):
            into.note("headings left out")
        elif introduces and block.endswith(":"):
            into.note("lines left out that only introduce a list")
        elif block != LEAD:
            into.add(BULLET.sub("", block, count=1) if BULLET.match(block) else block, words)


def _blocks(text: str, goes_on: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """Bullets, headings and paragraphs, each with whether it is no bullet and a bullet follows it."""
    blocks: list[list[str]] = []
    closed = True
    for line in text.splitlines():
        bare = line.strip()
        starts = BULLET.match(bare) or HEADING.match(bare)
        if bare and (closed or starts or not goes_on(line)):
            blocks.append([bare])
        elif bare:
            blocks[-1].append(bare)
        closed = not bare or bool(HEADING.match(bare))
    joined = [" ".join(lines) for lines in blocks]
    for block, following in zip(joined, [*joined, ""][1:], strict=True):
        yield block, bool(BULLET.match(following)) and not BULLET.match(block)


def _without_code(text: str, into: LessonTexts) -> str:
    """The text without its fenced blocks of code, which are no lessons."""
    kept: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = FENCE.match(line.strip())
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
            into.note("blocks of code left out", count=bool(fence))
        elif not fence:
            kept.append(line)
    return "\n".join(kept)


def _pieces(text: str, words: int) -> Iterator[str]:
    """The sentences of a text, as many together as fit into `words` words."""
    piece: list[str] = []
    size = 0
    for sentence in SENTENCE.split(text):
        length = max(len(sentence.split()), len(sentence) // LETTERS)
        if piece and size + length > words:
            yield " ".join(piece)
            piece, size = [], 0
        piece.append(sentence)
        size += length
    yield " ".join(piece)
