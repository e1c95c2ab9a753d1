"""
Libraries in files: our own, and those that other systems write.

The content of a file tells its format. Reading one executes nothing and trusts nothing: sizes are limited, types
checked, and hidden characters taken out; `ImportedLibrary.notes` says what was left out or changed.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from edgewise.experience.formats.other_systems import find_reader, is_playbook, read_playbook
from edgewise.experience.formats.plain_text import LessonTexts, read_plain_text
from edgewise.experience.library.library import Lesson, Library, make_lesson
from edgewise.toolkit.errors import ArtifactError, LibraryError

MAX_BYTES = 5_000_000
MAX_LESSONS = 5_000
MAX_WORDS = 60
KINDS = ("prompt", "skill", "youtu", "json")

# Control characters, and letters that are not seen: zero width, direction overrides, tags, halves of pairs.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
UNSEEN = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]")
# Not every "[": plain text may begin with a label, "[G0]. ".
MUST_BE_JSON = re.compile(r"\{|\[\s*[\[{\"\d\]]")
ID = re.compile(r"[\w.:-]{1,64}")
FLAT_LABEL = re.compile(r"G\d{1,6}")


@dataclass(frozen=True, slots=True)
class ImportedLibrary:
    """A library out of a file, the format of the file, and what was left out or changed."""

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
    text = (_read_file(source) if isinstance(source, Path) else source).strip()
    try:
        result = _read_json(text, words) if MUST_BE_JSON.match(text) else _read_text(text, words)
    except (ArtifactError, LibraryError) as error:
        raise LibraryError(f"{name} can't be read: {error}") from error

    lessons = result.library.lessons
    if len(lessons) <= MAX_LESSONS:
        return result
    note = f"lessons left out after the first {MAX_LESSONS:,}: {len(lessons) - MAX_LESSONS:,}"
    library = result.library.with_lessons(lessons[:MAX_LESSONS])
    return replace(result, library=library, notes=(note, *result.notes))


def render(library: Library, kind: str, name: str = "edgewise-lessons") -> str:
    """
    Return the library as text: "prompt" (just what goes into a prompt), "skill" (SKILL.md), "youtu", "json".

    `name` is that of the skill. Raises LibraryError for another kind.
    """
    match kind:
        case "prompt" if library.place != "split":
            return library.render()
        case "prompt":
            return "\n\n".join(filter(None, (library.render(["content"]), library.render(["form"]))))
        case "youtu" | "json":
            data = library.to_flat_json() if kind == "youtu" else library.to_json()
            return json.dumps(data, indent=1, ensure_ascii=False)
        case "skill":
            pass
        case _:
            raise LibraryError(f"A library is written as {', '.join(KINDS)}, not as {kind!r}")

    # agentskills.io wants a name of a-z, 0-9 and single hyphens, at most 64, and a description of one line.
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-") or "edgewise-lessons"
    description = f"{len(library)} lessons learned from graded attempts at {slug}; use them when working on it."
    # JSON strings are YAML strings, and need no rules for quotes.
    head = f"---\nname: {json.dumps(slug)}\ndescription: {json.dumps(description)}\n---\n\n# {slug}"
    parts = [head]
    for lesson_kind, title in {"content": "What to do", "form": "How to write the answer"}.items():
        lines = [f"- {x.text}" for x in library.lessons if x.kind == lesson_kind]
        parts += [f"## {title}", "\n".join(lines)] if lines else []
    return "\n\n".join(parts)


def _read_file(path: Path) -> str:
    """Return the text of a file, if it is one that can hold a library."""
    try:
        # A device or pipe may have no end, and a file may grow while it is read.
        if not path.is_file():
            raise LibraryError(f"There is no file {path}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise LibraryError(f"{path} can't be opened ({error})") from error
    if len(data) > MAX_BYTES:
        raise LibraryError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB, which no library is")
    if b"\0" in data:
        raise LibraryError(f"{path} is a binary file; a library is UTF-8 text or JSON")
    try:
        return data.decode("utf-8-sig")  # without a byte order mark
    except UnicodeDecodeError as error:
        raise LibraryError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _read_text(text: str, words: int) -> ImportedLibrary:
    """Read SKILL.md, a playbook, or plain text."""
    if text.startswith(("---\n", "---\r\n")):
        # Of the front matter only the name matters, read as a line: no YAML is interpreted.
        lines = text.splitlines()
        end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")), None)
        if end is None:
            raise LibraryError("its front matter, which begins with ---, has no end")
        names = (re.match(r"name:\s*[\"']?([\w .-]{1,64})", line) for line in lines[1:end])
        name = next((match[1] for match in names if match), "")
        body = "\n".join(lines[end + 1 :])
        return _collect(f"the skill {name}".rstrip(), lambda lessons: read_plain_text(body, words, lessons))
    if is_playbook(text):
        return _collect("a playbook of ACE", lambda lessons: read_playbook(text, words, lessons))
    return _collect("plain text", lambda lessons: read_plain_text(text, words, lessons, by_line=True))


def _read_json(text: str, words: int) -> ImportedLibrary:
    """Read a library from JSON, without what only looks harmless: keys that stand twice, NaN, endless nesting."""

    def reject_constant(name: str) -> Any:
        raise LibraryError(f"{name} is no JSON")

    def reject_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in pairs:
            if key in items:
                raise LibraryError(f"the key {key[:40]!r} stands twice in an object")
            items[key] = value
        return items

    try:
        data = json.loads(text, object_pairs_hook=reject_twins, parse_constant=reject_constant)
    except RecursionError as error:
        raise LibraryError("it is nested too deep") from error
    except ValueError as error:
        raise LibraryError(f"it begins like JSON but is none ({error})") from error

    # Our own formats by their keys, then those of others.
    if isinstance(data, dict) and {"format", "files", "parents"} <= data.keys():
        raise LibraryError("it is the manifest of an artefact; give the directory that it is in")
    if isinstance(data, dict) and "lessons" in data:
        library = Library.from_json(data)
        for x in library.lessons:
            if not ID.fullmatch(x.id):
                raise LibraryError(f"{x.id[:40]!r} is no id: an id has 1 to 64 letters, digits and -_.:")
            if x.effect and not (isfinite(x.effect.estimate) and x.effect.low <= x.effect.high):
                raise LibraryError(f"the effect of lesson {x.id[:40]!r} is no number with an interval")
        return _clean(library)
    if isinstance(data, dict) and all(FLAT_LABEL.fullmatch(key) for key in data):
        for label, value in data.items():
            if not isinstance(value, str):
                raise LibraryError(f"{label} is not a text")
        return _collect("experiences of youtu-agent", lambda lessons: lessons.texts.extend(data.values()))
    reader = find_reader(data)
    if reader is None:
        raise LibraryError("it is JSON, but no library in a format that is known")
    source_format, read_data = reader
    return _collect(source_format, lambda lessons: read_data(data, words, lessons))


def _collect(source_format: str, read_texts: Callable[[LessonTexts], None]) -> ImportedLibrary:
    """Return a library of the texts that `read_texts` adds; a lesson's id comes from its wording."""
    lessons = LessonTexts()
    read_texts(lessons)

    # Ids are made after cleaning, so that texts which look the same are one lesson.
    cleaned = _clean(Library(tuple(Lesson("", text) for text in lessons.texts)))
    by_id = {lesson.id: lesson for lesson in (make_lesson(x.text) for x in cleaned.library.lessons)}
    lessons.count("texts left out that repeat another", len(cleaned.library) - len(by_id))
    return ImportedLibrary(Library(tuple(by_id.values())), source_format, (*lessons.list_notes(), *cleaned.notes))


def _clean(library: Library) -> ImportedLibrary:
    """Return the library without characters that nobody sees and without empty lessons."""
    changes = LessonTexts()
    lessons = []
    for x in library.lessons:
        # A control character may stand between words, and an unseen one within a word.
        text = " ".join(UNSEEN.sub("", CONTROL.sub(" ", x.text)).split())
        is_changed = text != " ".join(x.text.split())
        changes.count("lessons that had hidden or control characters taken out", is_changed)
        changes.count("empty lessons left out", not text)
        if text:
            lessons.append(replace(x, text=text))
    return ImportedLibrary(library.with_lessons(lessons), "a library of Edgewise", tuple(changes.list_notes()))
