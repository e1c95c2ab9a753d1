import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.toolkit.budget.journal import Journal, compute_key
from edgewise.toolkit.errors import JournalError
from edgewise.toolkit.types import BilledTo, Message, Reply, Request, Sampling, Tool, ToolCall, Usage

BASE = Request("openai/m", (Message("user", "hi"),), Sampling(temperature=1.0, max_tokens=5, seed=3))
REPLY = Reply(Message("assistant", "yes"), usage=Usage(3, 1, 2), latency=0.25, model="m-1")


def numbered_request(number):
    return replace(BASE, messages=(Message("user", f"question {number}"),))


def put_all(journal, requests, reply=REPLY):
    async def main():
        await asyncio.gather(*(journal.put(compute_key(r), r, reply) for r in requests))

    asyncio.run(main())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "journal.sqlite"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "openai/n"},
        {"messages": (Message("system", "hi"),)},
        {"messages": (Message("user", "hi"), Message("user", ""))},
        {"messages": (Message("assistant", "hi", (ToolCall("1", "f", "{}"),)),)},
        {"sample": 1},
        {"is_embedding": True},
        {"schema": {"type": "object"}},
        {"tools": (Tool("f", "", {}),)},
        {"sampling": Sampling(temperature=0.0, max_tokens=5, seed=3)},
        {"sampling": Sampling(temperature=1.0, max_tokens=5, seed=4)},
        {"sampling": Sampling(temperature=1.0, max_tokens=5, seed=3, stop=("x",))},
    ],
)
def test_every_part_of_a_request_changes_its_key(change):
    assert compute_key(replace(BASE, **change)) != compute_key(BASE)


def test_payer_key_order_and_number_type_do_not_change_the_key():
    same = replace(BASE, payer=BilledTo("judge", 7, "x"), sampling=replace(BASE.sampling, temperature=1))
    assert compute_key(same) == compute_key(BASE)
    schemas = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert len({compute_key(replace(BASE, schema=schema)) for schema in schemas}) == 1


def test_keys_are_stable_between_versions():
    """Journals on disk depend on it: change FORMAT with it."""
    assert compute_key(BASE)[:12] == "ef914ea32cef"


texts = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too: models write them
calls = st.lists(st.builds(ToolCall, texts, texts, texts), max_size=2).map(tuple)
messages = st.builds(Message, st.just("assistant"), texts, calls, st.none() | texts)
requests = st.builds(
    Request,
    texts,
    st.lists(messages, max_size=3).map(tuple),
    st.builds(
        Sampling, st.none() | st.floats(0, 2), st.none(), st.none() | st.integers(1, 9), st.none(), st.tuples(texts)
    ),
    st.lists(st.builds(Tool, texts, texts, st.dictionaries(texts, st.integers())), max_size=2).map(tuple),
    st.integers(0, 5),
    st.none() | st.dictionaries(texts, texts),
    st.builds(BilledTo, st.just("judge"), st.integers(0, 9), st.text(max_size=5)),
    st.booleans(),
)
replies = st.builds(
    Reply, messages, st.sampled_from(["stop", "failed"]), st.none() | st.builds(Usage), st.floats(0, 9), texts, texts
)


@settings(max_examples=25, deadline=None)
@given(request=requests, reply=replies)
def test_any_call_comes_back_as_it_was(tmp_path_factory, request, reply):
    path = tmp_path_factory.mktemp("j") / "j.sqlite"
    with Journal(path, ballast=0) as journal:
        put_all(journal, [request], reply)
        assert journal.get(compute_key(request)) == reply
    with Journal(path, readonly=True) as journal:
        (entry,) = journal
        assert (entry.key, entry.request, entry.reply) == (compute_key(request), request, reply)


def test_entries_keep_their_order_and_their_first_reply(path):
    with Journal(path) as journal:
        for number in range(5):
            put_all(journal, [numbered_request(number)])
        put_all(journal, [numbered_request(0)], replace(REPLY, error="other"))
        assert [entry.request for entry in journal] == [numbered_request(number) for number in range(5)]
        assert journal.get(compute_key(numbered_request(0))) == REPLY
        assert journal.get(compute_key(numbered_request(99))) is None
        assert len(journal) == 5


def test_a_thousand_puts_at_once_are_all_there_after_reopening(path):
    with Journal(path) as journal:
        put_all(journal, map(numbered_request, range(1000)))
    with Journal(path) as journal:
        assert sorted(entry.key for entry in journal) == sorted(
            compute_key(numbered_request(number)) for number in range(1000)
        )


def test_elapsed_time_goes_on_after_a_restart(path):
    with Journal(path) as journal:
        time.sleep(0.05)
        put_all(journal, [BASE])
    with Journal(path) as journal:
        assert 0.05 <= journal.elapsed < 5


@pytest.mark.parametrize("content", [b"this is no database, " * 500, b"SQLite format 3\0" + os.urandom(8000)])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    for readonly in (True, False):
        with pytest.raises(JournalError, match="move it away"):
            Journal(path, readonly=readonly)
    assert path.read_bytes() == content


def test_a_damaged_journal_is_refused_and_left_alone(path):
    with Journal(path) as journal:
        put_all(journal, map(numbered_request, range(300)))
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 20] = os.urandom(4096 * 17)
    path.write_bytes(content)
    with pytest.raises(JournalError, match="Nothing was changed"):
        Journal(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "journal.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(JournalError, match="not a journal of Edgewise"):
        Journal(path)


def test_a_second_writer_is_refused_while_readers_are_welcome(path):
    with Journal(path) as journal:
        with pytest.raises(JournalError, match="Another run"):
            Journal(path)
        put_all(journal, [BASE])
        with Journal(path, readonly=True) as reader:
            assert reader.get(compute_key(BASE)) == REPLY
            with pytest.raises(JournalError, match="reading only"):
                put_all(reader, [BASE])
    Journal(path).close()


def test_reading_a_journal_that_is_not_there_makes_none(path):
    with pytest.raises(JournalError, match="no journal"):
        Journal(path, readonly=True)
    assert not path.exists()


WRITER = """
import asyncio, sys
from edgewise.toolkit.budget.journal import Journal, compute_key
from edgewise.toolkit.types import Message, Reply, Request, Usage

async def main():
    with Journal(sys.argv[1]) as journal:
        async def worker(first):
            for number in range(first, 10**9, 20):
                request = Request("openai/m", (Message("user", f"question {number}"),))
                await journal.put(compute_key(request), request, Reply(Message("assistant", "x" * 500)))
                print(compute_key(request), flush=True)
        await asyncio.gather(*map(worker, range(20)))

asyncio.run(main())
"""


def test_kill_9_loses_no_acknowledged_entry(path):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        acknowledged = [process.stdout.readline().strip() for _ in range(300)]
        with pytest.raises(JournalError, match="Another run"):
            Journal(path)
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    with Journal(path) as journal:
        assert all(journal.get(key) for key in acknowledged if len(key) == 64)
        put_all(journal, [BASE])
        assert journal.get(compute_key(BASE)) == REPLY
    assert not path.with_name(path.name + ".ballast").exists()


FILLER = """
import asyncio, os, sys
from edgewise.toolkit.errors import DiskFull
from edgewise.toolkit.budget.journal import Journal, compute_key
from edgewise.toolkit.types import Message, Reply, Request

folder, ballast = sys.argv[1], int(sys.argv[2])
reply = Reply(Message("assistant", "x" * 2000))

def numbered_request(n):
    return Request("openai/m", (Message("user", f"question {n}"),))

async def main(journal):
    for n in range(100000):
        try:
            await journal.put(compute_key(numbered_request(n)), numbered_request(n), reply)
        except DiskFull as error:
            return n, str(error)

with Journal(folder + "/journal.sqlite", ballast=ballast) as journal:
    last, sentence = asyncio.run(main(journal))
    full = journal.is_full
with Journal(folder + "/journal.sqlite", readonly=True) as journal:
    saved = sum(journal.get(compute_key(numbered_request(n))) is not None for n in range(last + 1))
print(last, saved, full, sentence, sep="|")
"""


@pytest.mark.parametrize("ballast", [1 << 20, 0])
def test_the_ballast_saves_paid_replies_on_a_full_disk(tmp_path, ballast):
    """On a small file system of its own, mounted where only this test sees it."""
    mount = f'mount -t tmpfs -o size=6m tmpfs "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}" {ballast}'
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system in a namespace")
    command = ["unshare", "-rm", "sh", "-c", mount, sys.executable, FILLER]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last, saved, full, sentence = done.stdout.strip().split("|")
    assert full == "True"
    assert int(saved) == int(last) + (1 if ballast else 0)
    assert ("The last replies are saved" if ballast else "could not be saved") in sentence


def test_a_disk_without_room_for_a_journal_is_said_at_once(tmp_path):
    """A limit on the size of files stands in for the disk."""
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from edgewise.toolkit.errors import DiskFull
from edgewise.toolkit.budget.journal import Journal
try:
    Journal({str(tmp_path / "journal.sqlite")!r})
except DiskFull as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no room" in done.stdout
