"""Vectors are asked for once a text, have length 1, and one that can't be had is a sentence."""

import numpy as np
import pytest

from edgewise.learner.sampling.embeddings import create_embed
from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.model.openai_format import pack_vector
from edgewise.toolkit.types import Message, Reply
from tests.support.plans import play


def embed_text(request):
    """As models for embeddings answer: the vector in the place of text."""
    assert request.is_embedding and request.model == "local/vectors"
    return Reply(Message("assistant", pack_vector([len(request.messages[0].content), 0, 1])))


def test_each_text_is_embedded_once() -> None:
    texts: list[str] = []

    def answer(request):
        texts.append(request.messages[0].content)
        return embed_text(request)

    embed = create_embed("local/vectors")
    first = play(embed(["a", "bb", "a"]), answer)
    again = play(embed(["bb"]), answer)
    assert texts == ["a", "bb"]
    assert first.shape == (3, 3) and np.allclose(np.linalg.norm(first, axis=1), 1)
    assert (first[0] == first[2]).all() and (again[0] == first[1]).all()


def test_model_without_vectors_is_one_sentence() -> None:
    failed = Reply(Message("assistant", ""), "failed", error="it writes text and gives no vectors")
    with pytest.raises(ModelError, match="local/text gave no vector: it writes text"):
        play(create_embed("local/text")(["a"]), lambda request: failed)
