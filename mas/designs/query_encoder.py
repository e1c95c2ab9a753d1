"""
Features of queries: each text becomes D float32 numbers of length 1, so that near texts have a large dot product.

    minilm      all-MiniLM-L6-v2 on the CPU through torch, D = 384 (Reimers and Gurevych 2019, arXiv 1908.10084)
    hashing     hashed words and pieces of words, numpy only, D = 1024; the same on every machine
    auto        minilm where it can be had, else hashing; a note says which
    any other   an embedding model of the client, such as openai/text-embedding-3-small

N texts, D features.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.model.embedded.catalogue import ENCODER as MINILM
from edgewise.toolkit.model.embedded.download import pull_encoder as minilm_files
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.tracking.events import StageStarted
from edgewise.toolkit.types import BilledTo, BlockingCall, Message, Plan, Reply, Request

AUTO, HASHING = "auto", "hashing"
HASHED = 1024
PIECES = (3, 4)
"""Lengths of the pieces of words, in characters; a blank stands for either end of a word."""

TOKENS = 256
"""The most tokens of a text that minilm reads, as it was published; the rest is not seen."""

ROWS, STRIDE = 8, 16
"""
Texts are computed in batches of one shape: `ROWS` of them, their length rounded up to a multiple of `STRIDE`.

So what comes of a text does not depend on the texts beside it, to the last bit.
"""

Vectors = NDArray[np.float32]


def is_client_model(name: str) -> bool:
    """Whether this encoder is a model of the client, which has a price."""
    return name not in (AUTO, HASHING, MINILM)


def encode(name: str, texts: Sequence[str]) -> Plan[Vectors]:
    """
    (N, D) features of texts by the encoder of that name; rows have length 1, or 0 where a text has nothing to say.

    A text that the client's model could not take has zeros. Raises ModelError where the encoder can't be had, or gave
    no vector at all.
    """
    name = yield from resolve_encoder(name)
    new = list(dict.fromkeys(texts))
    known = dict(zip(new, (yield from _new(name, new)), strict=True)) if new else {}
    if len({found.size for found in known.values()}) > 1:
        raise ModelError(f"{name} gave vectors of different lengths: name an encoder that does not change.")
    return np.stack([known[text] for text in texts]) if len(texts) else np.zeros((0, 0), np.float32)


def resolve_encoder(name: str) -> Plan[str]:
    """The name of the encoder that "auto" stands for on this machine, with a note; any other name as it is."""
    if name != AUTO:
        return name
    problem = yield BlockingCall(_why_not)
    found = HASHING if problem else MINILM
    yield StageStarted(f"queries are encoded by {found}" + (f": {problem}" if problem else ""))
    return found


def _new(name: str, texts: Sequence[str]) -> Plan[Iterable[Vectors]]:
    if name == HASHING:
        return hash_texts(texts)
    if name == MINILM:
        return (yield BlockingCall(embed_sentences, (texts,)))
    return (yield from _asked(name, texts))


# ---- hashing ---------------------------------------------------------------------------------------


def hash_texts(texts: Sequence[str]) -> Vectors:
    """
    (N, `HASHED`) signed hashes of words, pairs of words and pieces of words, each 1 + log of its count.

    Numbers all count as one word: a task says what kind it is by its words. Weinberger et al. 2009,
    arXiv 0902.2206; the hash is BLAKE2, which is the same in every process.
    """
    found = np.zeros((len(texts), HASHED), np.float32)
    for row, text in zip(found, texts, strict=True):
        for feature, count in Counter(_features(text)).items():
            place, sign = _bucket(feature)
            row[place] += sign * (1 + math.log(count))
    return _unit(found)


def _features(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", re.sub(r"\d+", "0", text.lower()))
    yield from (f"w {word}" for word in words)
    yield from (f"p {a} {b}" for a, b in pairwise(words))
    for word in words:
        ended = f" {word} "
        yield from (f"c {ended[i : i + n]}" for n in PIECES for i in range(len(ended) - n + 1))


@cache
def _bucket(feature: str) -> tuple[int, int]:
    digest = int.from_bytes(blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return digest // 2 % HASHED, 1 if digest % 2 else -1


def _unit(rows: Vectors) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


# ---- minilm ----------------------------------------------------------------------------------------


def embed_sentences(texts: Sequence[str]) -> Vectors:
    """
    (N, 384) means of the last layer of all-MiniLM-L6-v2 over a text's tokens, length 1.

    Raises ModelError where torch is not installed or the files can't be fetched.
    """
    tokenizer, model = _minilm()
    tokens = [each.ids for each in tokenizer.encode_batch([_sound(text) for text in texts])]
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    by_length: dict[int, list[int]] = {}
    for row, ids in enumerate(tokens):
        by_length.setdefault(-(-len(ids) // STRIDE) * STRIDE, []).append(row)
    for length, rows in by_length.items():
        for start in range(0, len(rows), ROWS):
            batch = rows[start : start + ROWS]
            found[batch] = _means(model, [tokens[row] for row in batch], length)
    return _unit(found)


def _means(model: Any, tokens: Sequence[Sequence[int]], length: int) -> Vectors:
    """(n, 384) means over the tokens of at most `ROWS` texts, each padded to `length`."""
    import torch

    ids = np.zeros((ROWS, length), np.int64)
    mask = np.zeros((ROWS, length), np.int64)
    mask[:, 0] = 1  # rows without a text have a token too: a mean over none is not a number
    for row, each in enumerate(tokens):
        ids[row, : len(each)], mask[row, : len(each)] = each, 1
    with torch.inference_mode():
        last = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    sums = (last * mask[..., None].astype(np.float32)).sum(1)
    return (sums / mask.sum(1, keepdims=True).astype(np.float32))[: len(tokens)]


def _sound(text: str) -> str:
    """Without lone surrogates, which the tokenizer does not take."""
    return text.encode("utf-8", "replace").decode("utf-8")


_loading = Lock()
_loaded: list[tuple[Any, Any]] = []


def _minilm() -> tuple[Any, Any]:
    """The tokenizer and the model, loaded once for the process."""
    with _loading:
        if not _loaded:
            _loaded.append(_load())
        return _loaded[0]


def _load() -> tuple[Any, Any]:
    # Read once, when torch is loaded: threads that spin while they wait stall whatever else wants a core, and
    # on a busy machine this made a batch ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    weights, words = _files()
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    model = BertModel(
        BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
        add_pooling_layer=False,
    )
    model.load_state_dict({name: x for name, x in load_file(weights).items() if _wanted(name)})
    return tokenizer, model.eval()


def _files() -> tuple[Path, ...]:
    """The files, if what reads them is installed."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"The encoder {MINILM!r} needs {' and '.join(missing)}: pip install 'edgewise[learner]', or name "
            f"{HASHING!r}, which needs neither."
        )
    try:
        return minilm_files()
    except ModelError as error:
        raise ModelError(f"The encoder {MINILM!r} can't be had: {error} Or name {HASHING!r}.") from error


def _wanted(name: str) -> bool:
    """The file also has the head of another use, and the numbers 0 to 511."""
    return not name.startswith("pooler.") and not name.endswith("position_ids")


def _why_not() -> str:
    """Why minilm can't be had; "" if it can."""
    try:
        _minilm()
    except ModelError as error:
        return str(error)
    return ""


# ---- an embedding model of the client ----------------------------------------------------------------


def _asked(name: str, texts: Sequence[str]) -> Plan[list[Vectors]]:
    """The vectors of an embedding model, scaled to length 1; zeros for a blank text and one that failed."""
    asked = [text for text in texts if text.strip()]
    replies: list[Reply] = yield [_ask(name, text) for text in asked]
    found = {text: read_vector(reply) for text, reply in zip(asked, replies, strict=True) if not reply.failed}
    if not found:
        reason = replies[0].error if replies else "all texts are blank"
        raise ModelError(f"{name} gave no vector for any query: {reason}")
    sizes = {each.size for each in found.values()}
    zeros = np.zeros(max(sizes), np.float32)
    return [_unit(found[text][None])[0] if text in found else zeros for text in texts]


def _ask(name: str, text: str) -> Plan[Reply]:
    return (yield Request(name, (Message("user", text),), payer=BilledTo("encoder"), is_embedding=True))
