"""Embeddings of texts by a model, requested once for each text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.groups.sampling.rollout_plan import Embed
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.types import BilledTo, Message, Plan, Request

PAYER = BilledTo("retrieval")


def create_embed(model: str) -> Embed:
    """
    Return `SamplingRequest.embed` for a model: a plan from texts to unit vectors, [texts, dimensions].

    The plan raises ModelError if the model returns no vector.
    """
    # Rows come back in every epoch, and solved ones are compared with all others: each text is paid for once.
    vectors: dict[str, NDArray[np.floating]] = {}

    def embed(texts: Sequence[str]) -> Plan[NDArray[np.floating]]:
        missing = [text for text in dict.fromkeys(texts) if text not in vectors]
        requests = [Request(model, (Message("user", text),), payer=PAYER, is_embedding=True) for text in missing]
        replies = yield [plan_request(request) for request in requests]
        for text, reply in zip(missing, replies, strict=True):
            if reply.failed:
                raise ModelError(f"{model} gave no vector: {reply.error}")
            vectors[text] = read_vector(reply)

        matrix = np.stack([vectors[text] for text in texts])
        # A vector of zeros has no direction and stays as it is.
        return matrix / np.maximum(1e-12, np.linalg.norm(matrix, axis=1, keepdims=True))

    return embed
