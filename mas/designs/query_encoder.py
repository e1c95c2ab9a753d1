"""
Features of queries: each text becomes D float32 numbers of length 1, so that near texts have a large dot product.

    minilm      all-MiniLM-L6-v2 on the CPU through torch, D = 384 (Reimers and Gurevych 2019, arXiv 1908.10084)
    hashing     hashed words and pieces of words, numpy only, D = 1024; the same on every machine
    auto        minilm if it is available, else hashing; an event says which
    any other   an embedding model of the client, such as openai/text-embedding-3-small

N texts, D features, T tokens.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.model.embedded.catalogue import ENCODER as MINILM
from edgewise.toolkit.model.embedded.download import pull_encoder as minilm_files
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.tracking.events import StageStarted
from edgewise.toolkit.types import BilledTo, BlockingCall, Message, Plan, Reply, Request

AUTO, HASHING = "auto", "hashing"
HASHED = 1024
PIECES = (3, 4)
"""Lengths of the pieces of words, in characters; a blank stands for either end of a word."""

MAX_TOKENS = 256
"""Most tokens of a text that minilm reads, as it was published; the rest is cut off."""

ROWS, STRIDE = 8, 16
"""
Shape of minilm's batches: `ROWS` texts, their length rounded up to a multiple of `STRIDE`.

With fixed shapes the features of a text don't depend on the texts beside it, to the last bit.
"""

Vectors = NDArray[np.float32]


def is_client_model(name: str) -> bool:
    """Return whether an encoder is a model of the client, which has a price."""
    return name not in (AUTO, HASHING, MINILM)


def encode(name: str, texts: Sequence[str]) -> Plan[Vectors]:
    """
    Return the features of texts, (N, D), by the encoder of that name.

    Rows have length 1; they are 0 for a text without features and for one that the client's model refused. Raises
    ModelError if the encoder is not available, or gives no vector at all.
    """
    name = yield from resolve_encoder(name)
    # Equal texts are encoded once, and paid for once.
    distinct = list(dict.fromkeys(texts))
    rows: Iterable[Vectors] = ()
    if distinct and name == HASHING:
        rows = hash_texts(distinct)
    elif distinct and name == MINILM:
        rows = yield BlockingCall(embed_sentences, (distinct,))
    elif distinct:
        rows = yield from ask_client(name, distinct)
    by_text = dict(zip(distinct, rows, strict=True))
    if len({vector.size for vector in by_text.values()}) > 1:
        raise ModelError(f"{name} gave vectors of different lengths: name an encoder that does not change.")
    return np.stack([by_text[text] for text in texts]) if len(texts) else np.zeros((0, 0), np.float32)


def resolve_encoder(name: str) -> Plan[str]:
    """Return the encoder that "auto" stands for on this machine, and report it; return any other name as it is."""
    if name != AUTO:
        return name

    def find_problem() -> str:
        try:
            load_minilm()
        except ModelError as error:
            return str(error)
        return ""

    # Loading takes seconds and may download 84 MB, so it runs in a thread.
    problem = yield BlockingCall(find_problem)
    encoder = HASHING if problem else MINILM
    yield StageStarted(f"queries are encoded by {encoder}" + (f": {problem}" if problem else ""))
    return encoder


# ---- hashing ---------------------------------------------------------------------------------------


def hash_texts(texts: Sequence[str]) -> Vectors:
    """
    Return signed hashes of words, pairs of words and pieces of words, (N, `HASHED`).

    Feature hashing (Weinberger et al. 2009, arXiv 0902.2206): a feature f with count c adds s(f) (1 + ln c) to place
    h(f). The sign s(f) makes the expected error of a dot product zero where two features share a place.
    """
    vectors = np.zeros((len(texts), HASHED), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        # All numbers are one word, as a task is recognised by its words and not by its numbers.
        words = re.findall(r"\w+", re.sub(r"\d+", "0", text.lower()))
        features = Counter(f"w {word}" for word in words)
        features.update(f"p {a} {b}" for a, b in pairwise(words))
        for word in words:
            padded = f" {word} "
            features.update(f"c {padded[i : i + n]}" for n in PIECES for i in range(len(padded) - n + 1))
        for feature, count in features.items():
            place, sign = hash_feature(feature)
            row[place] += sign * (1 + math.log(count))
    return scale_to_unit(vectors)


@cache
def hash_feature(feature: str) -> tuple[int, int]:
    """Return the place and the sign of a feature."""
    # BLAKE2, because Python's own hash of a string differs between processes.
    digest = int.from_bytes(blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return digest // 2 % HASHED, 1 if digest % 2 else -1


def scale_to_unit(rows: Vectors) -> Vectors:
    """Scale rows to length 1; rows of zeros stay as they are."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


# ---- minilm ----------------------------------------------------------------------------------------


def embed_sentences(texts: Sequence[str]) -> Vectors:
    """
    Return the means of the last layer of all-MiniLM-L6-v2 over the tokens of each text, (N, 384), of length 1.

    Raises ModelError if torch is not installed or the files can't be downloaded.
    """
    tokenizer, model = load_minilm()
    import torch  # only now: loading sets what torch reads when it is imported

    # Without lone surrogates, which the tokenizer refuses.
    clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(clean)]
    by_length: dict[int, list[int]] = {}
    for row, ids in enumerate(tokens):
        by_length.setdefault(-(-len(ids) // STRIDE) * STRIDE, []).append(row)

    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    for length, rows in by_length.items():
        for start in range(0, len(rows), ROWS):
            batch = rows[start : start + ROWS]
            ids = np.zeros((ROWS, length), np.int64)
            mask = np.zeros((ROWS, length), np.int64)
            mask[:, 0] = 1  # rows without a text have a token too: a mean over none is not a number
            for number, row in enumerate(batch):
                ids[number, : len(tokens[row])], mask[number, : len(tokens[row])] = tokens[row], 1
            with torch.inference_mode():
                output = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
            hidden = output.last_hidden_state.numpy()  # [ROWS, T, 384]
            sums = (hidden * mask[..., None].astype(np.float32)).sum(1)
            means = sums / mask.sum(1, keepdims=True).astype(np.float32)
            vectors[batch] = means[: len(batch)]
    return scale_to_unit(vectors)


# One model for the process. The lock is held while it loads, as encoders of several runs may ask at once from threads.
_loading = Lock()
_loaded: list[tuple[Any, Any]] = []


def load_minilm() -> tuple[Any, Any]:
    """Return the tokenizer and the model, loaded once. Raises ModelError if they are not available."""
    with _loading:
        if _loaded:
            return _loaded[0]

        missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
        if missing:
            raise ModelError(
                f"The encoder {MINILM!r} needs {' and '.join(missing)}: pip install 'edgewise[learner]', or name "
                f"{HASHING!r}, which needs neither."
            )
        try:
            weights, words = minilm_files()
        except ModelError as error:
            raise ModelError(f"The encoder {MINILM!r} can't be had: {error} Or name {HASHING!r}.") from error

        # Read once, when torch is loaded: threads that spin while they wait stall all others that want a core, and on
        # a busy machine this made a batch ten times slower.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        tokenizer = Tokenizer.from_file(str(words))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        model = BertModel(config, add_pooling_layer=False)
        # The file also has the pooling layer, which sentence vectors don't use, and the constant position ids.
        state = {
            name: x
            for name, x in load_file(weights).items()
            if not name.startswith("pooler.") and not name.endswith("position_ids")
        }
        model.load_state_dict(state)
        _loaded.append((tokenizer, model.eval()))
        return _loaded[0]


# ---- an embedding model of the client ----------------------------------------------------------------


def ask_client(name: str, texts: Sequence[str]) -> Plan[list[Vectors]]:
    """Return the vectors of an embedding model, scaled to length 1; zeros for a blank text and one that failed."""
    # Servers refuse blank texts.
    contents = [text for text in texts if text.strip()]
    messages = ((Message("user", text),) for text in contents)
    requests = [Request(name, x, payer=BilledTo("encoder"), is_embedding=True) for x in messages]
    replies: list[Reply] = yield [plan_request(request) for request in requests]
    pairs = zip(contents, replies, strict=True)
    vectors = {text: read_vector(reply) for text, reply in pairs if not reply.failed}
    if not vectors:
        reason = replies[0].error if replies else "all texts are blank"
        raise ModelError(f"{name} gave no vector for any query: {reason}")
    zeros = np.zeros(max(vector.size for vector in vectors.values()), np.float32)
    return [scale_to_unit(vectors[text][None])[0] if text in vectors else zeros for text in texts]
