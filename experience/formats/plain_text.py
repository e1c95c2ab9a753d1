"""Lessons out of running text: a prompt, a page of notes, a list."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgewise.experience.library.library import LEAD
from edgewise.experience.library.operations import shorten
from edgewise.toolkit.errors import LibraryError

BULLET = re.compile(r"(?:[-*+•]|\d{1,3}[.)]|\[G\d+\]\.?)\s+")
HEADING = re.compile(r"#{1,6}\s|(?:[-*_=]\s*){3,}$")
FENCE = re.compile(r"(```|~~~)")
SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])")
LETTERS_PER_WORD = 12
"""So many letters count as a word at least: some scripts put no spaces between words."""
MAX_TEXTS = 100_000


@dataclass(slots=True)
class LessonTexts:
    """Texts of lessons out of one file, in their order, and how often something was left out or changed."""

    texts: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        """Count something to report to the user."""
        self.counts[what] = self.counts.get(what, 0) + number

    def list_notes(self) -> list[str]:
        """Return the counts above zero as text."""
        return [f"{what}: {count}" for what, count in self.counts.items() if count]

    def add(self, text: str, words: int) -> None:
        """Add a text as a lesson; as several, cut at the ends of sentences, where it has more than `words` words."""
        # As many sentences together as fit.
        pieces: list[str] = []
        sentences: list[str] = []
        size = 0
        for sentence in SENTENCE.split(text):
            length = max(len(sentence.split()), len(sentence) // LETTERS_PER_WORD)
            if sentences and size + length > words:
                pieces.append(" ".join(sentences))
                sentences, size = [], 0
            sentences.append(sentence)
            size += length
        pieces.append(" ".join(sentences))
        if len(pieces) > 1:
            self.count(f"texts longer than {words} words, split at the ends of sentences")

        # A sentence may be too long by itself.
        if len(self.texts) > MAX_TEXTS:
            raise LibraryError(f"it has more than {MAX_TEXTS:,} texts, which no library has")
        for piece in pieces:
            short = shorten(piece, words)[0][: words * LETTERS_PER_WORD]
            self.texts.append(short)
            if short != piece:
                self.count(f"sentences longer than {words} words, cut")


def read_plain_text(text: str, words: int, lessons: LessonTexts, *, by_line: bool = False) -> None:
    """
    Add a lesson for each bullet and paragraph of a text.

    With `by_line` each line is one, but for an indented line, which goes on with the one before.
    """
    # All blocks first, since one that only introduces a list is known by the next.
    blocks = list(_split_blocks(text, lessons, by_line))
    for block, following in zip(blocks, [*blocks, ""][1:], strict=True):
        is_bullet = BULLET.match(block)
        if HEADING.match(block):
            lessons.count("headings left out")
        elif block.endswith(":") and not is_bullet and BULLET.match(following):
            lessons.count("lines left out that only introduce a list")
        elif block != LEAD:
            lessons.add(BULLET.sub("", block, count=1) if is_bullet else block, words)


def _split_blocks(text: str, lessons: LessonTexts, by_line: bool) -> Iterator[str]:
    """Yield the bullets, headings and paragraphs of a text, without its fenced blocks of code."""
    block: list[str] = []
    fence = ""
    is_closed = True  # by an empty line or a heading: the next line begins a block
    for line in text.splitlines():
        bare = line.strip()
        mark = FENCE.match(bare)
        if mark and (not fence or mark[1] == fence):  # the other mark is code within this one
            fence = "" if fence else mark[1]
            lessons.count("blocks of code left out", bool(fence))
            continue
        if fence:
            continue

        is_heading = bool(HEADING.match(bare))
        goes_on = line[:1].isspace() or not by_line
        if bare and (is_closed or is_heading or BULLET.match(bare) or not goes_on):
            if block:
                yield " ".join(block)
            block = [bare]
        elif bare:
            block.append(bare)
        is_closed = not bare or is_heading
    if block:
        yield " ".join(block)
