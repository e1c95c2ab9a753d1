"""
Libraries in files: our own, and what other systems write.

What a file holds is told by its content. Reading one executes nothing and believes nothing: sizes are limited, types
checked, and hidden characters taken out; `Read.notes` says what was left out or changed.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from edgewise.experience.formats.other_systems import is_playbook, playbook, reader
from edgewise.experience.formats.plain_text import LessonTexts, by_line, by_paragraph
from edgewise.experience.library.library import Lesson, Library, make_lesson
from edgewise.toolkit.errors import ArtifactError, LibraryError

MOST_BYTES = 5_000_000
MAX_LESSONS = 5_000
MAX_WORDS = 60
KINDS = ("prompt", "skill", "youtu", "json")

# Control characters, and letters that are not seen: zero width, direction overrides, tags, halves of pairs.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
UNSEEN = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]")
MUST_BE_JSON = re.compile(r"\{|\[\s*[\[{\"\d\]]")
ID = re.compile(r"[\w.:-]{1,64}")
FLAT_LABEL = re.compile(r"G\d{1,6}")


@dataclass(frozen=True, slots=True)
class ImportedLibrary:
    """A library out of a file, what the file was, and what was left out or changed."""

    library: Library
    source_format: str
    notes: tuple[str, ...] = ()


def read(source: Path | str, words: int = MAX_WORDS) -> ImportedLibrary:
    """
    Read a library from a file (a Path) or from text (a str).

    Knows our library.json, youtu-agent's {"G0": text}, playbooks of ACE, skillbooks of ace-framework, candidates and
    results of GEPA, saved programs of DSPy, SKILL.md, and plain text with a lesson a line. Texts of other systems
    are split into lessons of at most `words` words. Raises LibraryError where nothing can be read safely.
    """
    name = str(source) if isinstance(source, Path) else "the text"
    text = _file(source) if isinstance(source, Path) else source
    try:
        return _limited(_parsed(text, words))
    except (ArtifactError, LibraryError) as error:
        raise LibraryError(f"{name} can't be read: {error}") from error


def render(library: Library, kind: str, name: str = "edgewise-lessons") -> str:
    """
    The library as text: "prompt" (just what goes into a prompt), "skill" (SKILL.md), "youtu", "json".

    `name` is that of the skill. Raises LibraryError for another kind.
    """
    writers: dict[str, Callable[[], str]] = {
        "prompt": lambda: _prompt(library),
        "skill": lambda: _skill(library, name),
        "youtu": lambda: json.dumps(library.to_flat_json(), indent=1, ensure_ascii=False),
        "json": lambda: json.dumps(library.to_json(), indent=1, ensure_ascii=False),
    }
    if kind not in writers:
        raise LibraryError(f"A library is written as {', '.join(writers)}, not as {kind!r}")
    return writers[kind]()


def _prompt(library: Library) -> str:
    if library.place != "split":
        return library.render()
    return "\n\n".join(filter(None, (library.render(["content"]), library.render(["form"]))))


def _skill(library: Library, name: str) -> str:
    """SKILL.md as agentskills.io has it: a name of a-z, 0-9 and single hyphens, a description of one line."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-") or "edgewise-lessons"
    what = f"{len(library)} lessons learned from graded attempts at {plain}; use them when working on it."
    titles = {"content": "What to do", "form": "How to write the answer"}
    parts = [f"---\nname: {json.dumps(plain)}\ndescription: {json.dumps(what)}\n---\n\n# {plain}"]
    for kind, title in titles.items():
        lines = [f"- {x.text}" for x in library.lessons if x.kind == kind]
        parts += [f"## {title}", "\n".join(lines)] if lines else []
    return "\n\n".join(parts)


def _file(path: Path) -> str:
    """The text of a file, if it is one that can hold a library."""
    try:
        if not path.is_file():
            raise LibraryError(f"There is no file {path}")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise LibraryError(f"{path} can't be opened ({error})") from error
    if len(data) > MOST_BYTES:
        raise LibraryError(f"{path} is larger than {MOST_BYTES // 1_000_000} MB, which no library is")
    if b"\0" in data:
        raise LibraryError(f"{path} is a binary file; a library is UTF-8 text or JSON")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LibraryError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _parsed(text: str, words: int) -> ImportedLibrary:
    bare = text.strip()
    if MUST_BE_JSON.match(bare):
        return _from_json(_json(bare), words)
    if bare.startswith("---\n") or bare.startswith("---\r\n"):
        return _from_skill(bare, words)
    if is_playbook(bare):
        return _collected("a playbook of ACE", lambda into: playbook(bare, words, into))
    return _collected("plain text", lambda into: by_line(text, words, into))


def _json(text: str) -> Any:
    """JSON without what only looks harmless: keys that stand twice, NaN, a nesting without end."""

    def constant(name: str) -> Any:
        raise LibraryError(f"{name} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=constant)
    except RecursionError as error:
        raise LibraryError("it is nested too deep") from error
    except ValueError as error:
        raise LibraryError(f"it begins like JSON but is none ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise LibraryError(f"the key {key[:40]!r} stands twice in an object")
        found[key] = value
    return found


def _from_json(data: Any, words: int) -> ImportedLibrary:
    if isinstance(data, dict) and {"format", "files", "parents"} <= data.keys():
        raise LibraryError("it is the manifest of an artefact; give the directory that it is in")
    if isinstance(data, dict) and "lessons" in data:
        return _cleaned(_own(data))
    if isinstance(data, dict) and all(FLAT_LABEL.fullmatch(key) for key in data):
        return _collected("experiences of youtu-agent", lambda into: _flat(data, into))
    found = reader(data)
    if found is None:
        raise LibraryError("it is JSON, but no library in a format that is known")
    return _collected(found[0], lambda into: found[1](data, words, into))


def _own(data: dict[str, Any]) -> Library:
    library = Library.from_json(data)
    for x in library.lessons:
        if not ID.fullmatch(x.id):
            raise LibraryError(f"{x.id[:40]!r} is no id: an id has 1 to 64 letters, digits and -_.:")
        effect = x.effect
        if effect and not (isfinite(effect.estimate) and effect.low <= effect.high):
            raise LibraryError(f"the effect of lesson {x.id[:40]!r} is no number with an interval")
    return library


def _flat(data: dict[str, Any], into: LessonTexts) -> None:
    for label, text in data.items():
        if not isinstance(text, str):
            raise LibraryError(f"{label} is not a text")
        into.texts.append(text)


def _from_skill(text: str, words: int) -> ImportedLibrary:
    """SKILL.md. Of its front matter only the name is looked at, as a line: no YAML is interpreted."""
    lines = text.splitlines()
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")), None)
    if end is None:
        raise LibraryError("its front matter, which begins with ---, has no end")
    name = next(
        (m[1] for line in lines[1:end] if (m := re.match(r"name:\s*[\"']?([\w .-]{1,64})", line))), ""
    )
    body = "\n".join(lines[end + 1 :])
    return _collected(f"the skill {name}".rstrip(), lambda into: by_paragraph(body, words, into))


def _collected(format: str, fill: Callable[[LessonTexts], None]) -> ImportedLibrary:
    """A library of the texts that `fill` finds; a lesson's id comes from its wording."""
    into = LessonTexts()
    fill(into)
    cleaned = _cleaned(Library(tuple(Lesson("", text) for text in into.texts)))
    lessons = {made.id: made for made in (make_lesson(x.text) for x in cleaned.library.lessons)}
    into.note("texts left out that repeat another", len(cleaned.library) - len(lessons))
    return ImportedLibrary(Library(tuple(lessons.values())), format, (*into.notes(), *cleaned.notes))


def _cleaned(library: Library) -> ImportedLibrary:
    """The library without characters that nobody sees and lessons without a word."""
    into = LessonTexts()
    kept = []
    for x in library.lessons:
        text = " ".join(UNSEEN.sub("", CONTROL.sub(" ", x.text)).split())
        into.note("lessons that had hidden or control characters taken out", text != " ".join(x.text.split()))
        into.note("empty lessons left out", not text)
        kept += [replace(x, text=text)] if text else []
    return ImportedLibrary(library.with_lessons(kept), "a library of Edgewise", tuple(into.notes()))


def _limited(found: ImportedLibrary) -> ImportedLibrary:
    """The first lessons, where there are too many."""
    lessons = found.library.lessons
    if len(lessons) <= MAX_LESSONS:
        return found
    note = f"lessons left out after the first {MAX_LESSONS:,}: {len(lessons) - MAX_LESSONS:,}"
    return replace(
        found, library=found.library.with_lessons(lessons[:MAX_LESSONS]), notes=(note, *found.notes)
    )
