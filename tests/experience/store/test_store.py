"""The store on SQLite and on a real PostgreSQL: history, concurrent writers, and whatever can go wrong."""

import contextlib
import os
import resource
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewise.experience.library.library import Effect, Lesson, Library, make_lesson
from edgewise.experience.store.store import MAX_NAME, StaleHead, Store
from edgewise.toolkit.errors import Conflict, LibraryError, StoreDown
from tests.support.postgres import PASSWORD, Postgres

ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=20)
NUL_AND_HALVES = "\0 \ud800 🙂 \x1b ' \" \\ %s {} \udfff"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has used."""
    if request.param == "sqlite":
        return str(tmp_path / "library.sqlite")
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url, wait=5) as reader:
        yield reader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite file with three versions."""
    path = tmp_path / "three.sqlite"
    with Store(str(path)) as reader:
        fill(reader, 3)
    return path


def add(text: str):
    return lambda library: library.with_lessons([*library.lessons, make_lesson(text)])


def fill(store: Store, versions: int, name: str = "main") -> None:
    for number in range(1, versions + 1):
        store.update(add(f"lesson {number}"), f"message {number}", name=name)


def texts(library: Library) -> list[str]:
    return [x.text for x in library.lessons]


def execute_sql(url: str, *statements: str) -> list[tuple]:
    """Statements as somebody with another program would run them; what the last one found."""
    address = url.replace("postgresql:", "postgresql+psycopg:") if "://" in url else f"sqlite:///{url}"
    engine = sa.create_engine(address)
    try:
        with engine.begin() as connection:
            rows = [connection.exec_driver_sql(statement) for statement in statements][-1]
            return [tuple(row) for row in rows] if rows.returns_rows else []
    finally:
        engine.dispose()


# History


def test_reading_an_empty_store_creates_nothing(store: Store, url: str) -> None:
    assert (store.list_names(), store.head(), store.list_commits()) == ([], None, [])
    with pytest.raises(LibraryError, match="nothing has been committed"):
        store.find_commit("head")
    if "://" in url:
        assert execute_sql(url, "SELECT 1 FROM pg_tables WHERE tablename LIKE 'edgewise%%'") == []
    else:
        assert not Path(url).exists()


def test_commits_are_numbered_chained_and_newest_first(store: Store, url: str) -> None:
    before = datetime.now(UTC)
    fill(store, 3)
    fill(store, 1, "planner")
    log = store.list_commits()
    assert [x.number for x in log] == [3, 2, 1]
    assert [x.parent for x in log] == [log[1].id, log[2].id, None]
    assert [x.message for x in log] == ["message 3", "message 2", "message 1"]
    assert all(before <= x.at <= datetime.now(UTC) and x.at.utcoffset() == timedelta(0) for x in log)
    assert store.list_names() == ["main", "planner"]
    with Store(url) as other:
        assert other.list_commits() == log
        assert other.head() == log[0]
        assert texts(log[0].library) == ["lesson 1", "lesson 2", "lesson 3"]


@given(text=ANY_TEXT, name=ANY_TEXT.filter(str.strip), low=st.floats(allow_nan=False))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_and_number_survives_a_round_trip(store: Store, text: str, name: str, low: float) -> None:
    for value in (text, NUL_AND_HALVES):
        effect = Effect(0.1, low, 0.3, 4, 5)
        whole = Lesson("id", value, "form", 3, (value,), (value, "r2"), True, True, effect)
        head = store.head(name)
        written = store.commit(
            Library((whole,), "split", True),
            value,
            parent=head.id if head else None,
            name=name,
            author=value,
            merged=value,
        )
        assert store.head(name) == written
        assert name in store.list_names()


def test_id_depends_on_every_field_it_hashes(store: Store) -> None:
    base = {"library": Library(), "message": "m", "parent": None, "name": "a", "author": "x", "key": ""}
    first = store.commit(**base)
    changes = {"library": add("l")(Library()), "message": "M", "author": "X", "key": "k"}
    others = [{**base, "name": f"b{i}", k: v} for i, (k, v) in enumerate(changes.items())]
    # The same content under other names, and once more on top of itself.
    others += [{**base, "name": f"c{i}"} for i in range(2)] + [{**base, "parent": first.id}]
    ids = {first.id, *(store.commit(**other).id for other in others)}
    assert len(ids) == 1 + len(others)


@pytest.mark.parametrize(
    ("version", "number"), [("1", 1), (" 3 ", 3), ("head", 3), ("HEAD", 3), ("head~2", 1), ("head~0", 3)]
)
def test_find_commit_by_number_and_from_the_head(file: Path, version: str, number: int) -> None:
    with Store(str(file)) as reader:
        assert reader.find_commit(version).number == number


def test_find_commit_by_id_and_by_unique_prefix(store: Store) -> None:
    fill(store, 30)
    log = store.list_commits()
    assert all(store.find_commit(x.id) == x for x in log)
    assert all(store.find_commit(x.id[:6].upper()) == x for x in log if not x.id[:6].isdecimal())
    assert all(store.find_commit(x.id[:4]) == x for x in log if not x.id[:4].isdecimal())


def test_ambiguous_or_short_prefix_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 30)
    shared = Counter(x.id[0] for x in store.list_commits() if x.id[0].isalpha()).most_common(1)[0][0]
    with pytest.raises(LibraryError, match="There is no version"):
        store.find_commit(shared)
    monkeypatch.setattr("edgewise.experience.store.store.MIN_PREFIX", 1)
    with pytest.raises(LibraryError, match=r"could be .*give more of it"):
        store.find_commit(shared)


@pytest.mark.parametrize("version", ["4", "0", "-1", "head~3", "zz", "", "head~", "9" * 5000, "%", "\ud800"])
def test_unknown_version_error_lists_what_there_is(file: Path, version: str) -> None:
    with Store(str(file)) as reader:
        with pytest.raises(LibraryError, match="it has 1 to 3, the head is"):
            reader.find_commit(version)
        with pytest.raises(LibraryError, match=r"no library 'other' .* it has 'main'"):
            reader.find_commit(version, "other")


def test_common_ancestor_follows_parents_and_merges(store: Store) -> None:
    fill(store, 3)
    three, two, one = store.list_commits()
    copy = store.commit(two.library, "copy", parent=None, name="branch", merged=two.id)
    changed = store.commit(add("more")(copy.library), "more", parent=copy.id, name="branch")
    alone = store.commit(Library(), "alone", parent=None, name="alone", merged="a file of somebody's")

    def ancestor(one: str, other: str) -> str | None:
        commit = store.common_ancestor(one, other)
        assert commit == store.common_ancestor(other, one)
        return commit.id if commit else None

    assert ancestor(three.id, one.id) == one.id
    assert ancestor(three.id, three.id) == three.id
    assert ancestor(changed.id, three.id) == two.id
    assert ancestor(alone.id, three.id) is None
    merged = store.commit(three.library, "merge", parent=changed.id, name="branch", merged=three.id)
    # `two` is common as well, and by its links as near; but `three` comes after it.
    assert ancestor(merged.id, three.id) == three.id
    with pytest.raises(LibraryError, match="no commit 'nobody'"):
        store.common_ancestor(one.id, "nobody")


# Writers


def test_commit_on_a_stale_head_is_refused(store: Store) -> None:
    first = store.commit(Library(), "one", parent=None)
    second = store.commit(Library(), "two", parent=first.id)
    for parent in (first.id, None):
        with pytest.raises(StaleHead, match="read its head again"):
            store.commit(Library(), "late", parent=parent)
    with pytest.raises(LibraryError, match="no commit 'unknown'"):
        store.commit(Library(), "astray", parent="unknown")
    assert store.list_commits() == [second, first]


def test_repeated_key_commits_once(store: Store, url: str) -> None:
    first = store.commit(Library(), "one", parent=None, key="k")
    store.commit(Library(), "two", parent=first.id)
    with Store(url) as other:
        again = other.commit(add("else")(Library()), "again", parent=first.id, key="k")
        assert again == first
        assert other.update(lambda library: pytest.fail("changed twice"), "again", key="k") == first
    assert [x.message for x in store.list_commits()] == ["two", "one"]
    assert store.commit(Library(), "one", parent=None, name="other", key="k") != first


def test_unreadable_library_is_not_committed(store: Store) -> None:
    fill(store, 1)
    with pytest.raises(LibraryError, match=r"two lessons have the same id.*not committed"):
        store.update(add("lesson 1"), "the same lesson twice")
    assert len(store.list_commits()) == 1


@pytest.mark.parametrize(("name", "key"), [("", ""), (" ", ""), ("n" * (MAX_NAME + 1), ""), ("n", "k" * 101)])
def test_empty_or_too_long_name_or_key_is_refused(store: Store, name: str, key: str) -> None:
    with pytest.raises(LibraryError, match="1 to 100 characters"):
        store.commit(Library(), "m", parent=None, name=name, key=key)


def test_longest_name_and_key_fit(store: Store) -> None:
    # Of different characters, which PostgreSQL can't compress.
    longest = "".join(chr(0x10000 + 977 * i) for i in range(MAX_NAME))
    assert store.commit(Library(), "m", parent=None, name=longest, key=longest) == store.head(longest)


def test_concurrent_writers_on_an_empty_database_lose_nothing(url: str) -> None:
    writers, commits_each = 6, 4
    ready = threading.Barrier(writers)

    def write(writer: int) -> list[str]:
        with Store(url) as mine:
            ready.wait()
            return [mine.update(add(f"{writer} says {i}"), "m", key=f"{writer} {i}").id for i in range(commits_each)]

    with ThreadPoolExecutor(writers) as pool:
        ids = [id for ids in pool.map(write, range(writers)) for id in ids]
    with Store(url) as reader:
        log = reader.list_commits()
    assert sorted(ids) == sorted(x.id for x in log)
    assert [x.number for x in log] == list(range(writers * commits_each, 0, -1))
    assert [x.parent for x in log] == [*(x.id for x in log[1:]), None]
    assert sorted(texts(log[0].library)) == sorted(f"{w} says {i}" for w in range(writers) for i in range(commits_each))


def overtake(store: Store, times: int):
    """A change during whose first calls somebody else commits; and what it was given."""
    heads: list[Library] = []

    def change(library: Library) -> Library:
        heads.append(library)
        if len(heads) <= times:
            store.update(add(f"theirs {len(heads)}"), "theirs")
        return add("ours")(library)

    return change, heads


def test_stale_update_is_retried_on_the_new_head(store: Store) -> None:
    fill(store, 1)
    change, heads = overtake(store, 2)
    done = store.update(change, "ours")
    assert [texts(x)[1:] for x in heads] == [[], ["theirs 1"], ["theirs 1", "theirs 2"]]
    assert texts(done.library) == ["lesson 1", "theirs 1", "theirs 2", "ours"]
    assert done == store.head()


def test_stale_update_with_merge_computes_the_change_once(store: Store) -> None:
    fill(store, 1)
    change, heads = overtake(store, 1)
    merged: list[list[list[str]]] = []

    def merge(base: Library, ours: Library, theirs: Library) -> Library:
        merged.append([texts(x) for x in (base, ours, theirs)])
        if len(merged) == 1:
            store.update(add("theirs 2"), "theirs")
        return theirs.with_lessons([*theirs.lessons, *ours.lessons[len(base) :]])

    done = store.update(change, "ours", merge=merge)
    assert len(heads) == 1
    base, ours = ["lesson 1"], ["lesson 1", "ours"]
    theirs = ["lesson 1", "theirs 1"]
    assert merged == [[base, ours, theirs], [base, ours, [*theirs, "theirs 2"]]]
    assert texts(done.library) == [*theirs, "theirs 2", "ours"]


def test_merge_conflict_ends_the_update_without_a_commit(store: Store) -> None:
    def merge(*_: Library) -> Library:
        raise Conflict("two wordings of one lesson")

    with pytest.raises(Conflict):
        store.update(overtake(store, 1)[0], "ours", merge=merge)
    assert [x.message for x in store.list_commits()] == ["theirs"]


# Append-only


def test_database_refuses_to_rewrite_history(store: Store, url: str) -> None:
    fill(store, 2)
    log = store.list_commits()
    statements = [
        "UPDATE edgewise_commits SET message = '\"better\"' WHERE number = 1",
        "DELETE FROM edgewise_commits WHERE number = 2",
        "DELETE FROM edgewise_commits",
        # SQLite has none.
        *(["TRUNCATE edgewise_commits"] if "://" in url else []),
    ]
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            execute_sql(url, statement)
    assert store.list_commits() == log


@pytest.mark.parametrize("number", [2, 0])
def test_database_refuses_a_second_commit_of_a_number(store: Store, url: str, number: int) -> None:
    fill(store, 2)
    columns = "merged, at, author, message, key, content"
    with pytest.raises(sa.exc.IntegrityError):
        execute_sql(
            url,
            f"INSERT INTO edgewise_commits SELECT name, {number}, 'abc', parent, {columns}"
            " FROM edgewise_commits WHERE number = 1",
        )


# What can go wrong


def test_tampered_row_is_named(store: Store, url: str) -> None:
    fill(store, 2)
    drop = "DROP TRIGGER edgewise_" + ("append_only ON edgewise_commits" if "://" in url else "no_update")
    execute_sql(url, drop, "UPDATE edgewise_commits SET message = '\"better\"' WHERE number = 1")
    with pytest.raises(LibraryError, match=r"version 1 of 'main' is not what its id .* says.*restore"):
        store.list_commits()
    assert texts(store.find_commit("2").library) == ["lesson 1", "lesson 2"]


def test_newer_format_is_refused(store: Store, url: str) -> None:
    fill(store, 1)
    execute_sql(url, "UPDATE edgewise_format SET format = 2")
    with pytest.raises(LibraryError, match="has format 2, this version reads 1"):
        Store(url)


def lock(url: str) -> sa.Connection:
    """Somebody else's transaction that keeps everybody out."""
    if "://" not in url:
        engine = sa.create_engine(f"sqlite:///{url}", poolclass=sa.NullPool)
        connection = engine.connect()
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        return connection
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    connection = engine.connect()
    connection.exec_driver_sql("LOCK TABLE edgewise_commits")
    return connection


def test_locked_database_raises_store_down(store: Store, url: str) -> None:
    fill(store, 1)
    with Store(url, wait=0.2) as impatient:
        with contextlib.closing(lock(url)):
            for use in (impatient.list_commits, lambda: impatient.update(add("late"), "late", key="k")):
                with pytest.raises(StoreDown, match=r"can't be used now: .*lock.* try again later"):
                    use()
        assert impatient.update(add("late"), "late", key="k").number == 2


def test_read_only_database_can_be_read(store: Store, url: str) -> None:
    fill(store, 1)
    before = store.list_commits()
    with contextlib.ExitStack() as stack:
        if "://" in url:
            name = url.rpartition("/")[2]
            execute_sql(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            place = url
        else:
            place = stack.enter_context(unwritable(Path(url)))
        reader = stack.enter_context(Store(place))
        assert reader.list_commits() == before
        with pytest.raises(LibraryError, match=r"read.only") as info:
            reader.update(add("more"), "more")
        assert info.value.exit_code == 2
    assert store.list_commits() == before


@contextlib.contextmanager
def unwritable(path: Path) -> Iterator[str]:
    """A copy of a file that this process may read and not write; root lays its power down for as long."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o444)
        Path(folder).chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            yield str(copy)
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


def test_full_disk_loses_nothing(file: Path) -> None:
    def too_much(library: Library) -> Library:
        return library.with_lessons([replace(make_lesson("long"), text="long " * 100_000)])

    with Store(str(file)) as reader:
        before = reader.list_commits()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20_000, hard))
            with pytest.raises(StoreDown, match="full"):
                reader.update(too_much, "too much")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert reader.list_commits() == before
        reader.update(too_much, "with room")


def of_something_else(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER)")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(b"These are the words of a letter. " * 99), "no SQLite database"),
        (lambda path: path.mkdir(), "can't be opened"),
        (of_something_else, "is a database of something else"),
    ],
    ids=["letter", "folder", "photos"],
)
def test_file_that_is_no_store_stays_unchanged(tmp_path: Path, spoil, says: str) -> None:
    path = tmp_path / "thing.sqlite"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LibraryError, match=says):
        Store(str(path))
    assert (path.read_bytes() if path.is_file() else None) == before
    assert [x.name for x in tmp_path.iterdir()] == [path.name]


def test_damaged_file_is_never_read_partially(tmp_path: Path) -> None:
    path = tmp_path / "damaged.sqlite"
    with Store(str(path)) as reader:
        fill(reader, 20)
        whole = reader.list_commits()
    good = path.read_bytes()
    refused = 0
    for start in range(0, len(good), 4096):
        path.write_bytes(good[:start] + b"\xa5" * 512 + good[start + 512 :])
        try:
            with Store(str(path)) as reader:
                # Damage may lie where a log does not look, but what is read is what was written.
                assert reader.list_commits() == whole
        except LibraryError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 5


def test_folders_are_created_for_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "team" / "words" / "library.db"
    with Store(f"sqlite:///{path}") as reader:
        fill(reader, 1)
    assert path.is_file()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "library",
        "library.json",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://me:geheim@host/db",
        "postgresql://me:geheim@host:port/db",
        "postgresql://me:ge@heim@host/db",
        "postgresql://me:ge:heim@host:geheim/db",
        "://",
    ],
)
def test_invalid_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(LibraryError, match="stored in a file that ends in") as info:
        Store(url)
    assert "heim" not in str(info.value)


def test_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LibraryError, match=r"pip install 'edgewise\[team\]'"):
        Store("postgresql://me@host/db")


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        (PASSWORD, "falsch-0815", 2, "password authentication failed"),
        ("edgewise:", "nobody:", 2, "password authentication failed"),
        ("/postgres", "/nothing", 2, '"nothing" does not exist'),
        ("127.0.0.1:", "no-such-host.invalid:", 3, "no-such-host.invalid"),
        ("postgresql:", "postgres:", 0, ""),
    ],
)
def test_login_error_is_explained_without_the_password(
    postgres: Postgres, old: str, new: str, code: int, says: str
) -> None:
    url = postgres.url().replace(old, new)
    if not code:
        with Store(url) as reader:
            assert reader.list_names() == []
            assert PASSWORD not in reader.location
        return
    with pytest.raises(LibraryError, match=says) as info:
        Store(url)
    assert info.value.exit_code == code
    assert info.value.__suppress_context__
    assert not any(secret in str(info.value) for secret in (PASSWORD, "falsch-0815"))


def test_server_restart_loses_nothing(postgres: Postgres) -> None:
    url = postgres.database()
    with Store(url) as reader:
        reader.update(add("before"), "before", key="1")
        postgres.stop()
        try:
            for use in (reader.list_commits, lambda: reader.update(add("after"), "after", key="2"), lambda: Store(url)):
                with pytest.raises(StoreDown, match="Nothing is lost: try again later") as info:
                    use()
                assert PASSWORD not in str(info.value)
        finally:
            postgres.start()
        reader.update(add("after"), "after", key="2")
        assert [x.message for x in reader.list_commits()] == ["after", "before"]


def test_commit_repeated_after_a_broken_connection_is_one(postgres: Postgres) -> None:
    url = postgres.database()
    with Store(url) as reader:
        fill(reader, 1)
        execute_sql(
            url,
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON edgewise_commits DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION cut()",
        )
        with pytest.raises(StoreDown, match="terminat"):
            reader.update(add("once"), "once", key="k")
        execute_sql(url, "DROP TRIGGER cut ON edgewise_commits")
        reader.update(add("once"), "once", key="k")
        assert [x.message for x in reader.list_commits()] == ["once", "message 1"]
