"""Vectors of texts by a model for embeddings, each asked for once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.toolkit.errors import ModelError
from edgewise.toolkit.groups.sampling.rollout_plan import Embed
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.types import BilledTo, Message, Plan, Request

PAYER = BilledTo("retrieval")


def embedding(model: str) -> Embed:
    """What `toolkit.groups.sampling.rollout_plan.SamplingRequest.embed` is, by this model. Its plans raise ModelError where it gives no vector."""
    known: dict[str, NDArray[np.floating]] = {}

    def embed(texts: Sequence[str]) -> Plan[NDArray[np.floating]]:
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        asked = [Request(model, (Message("user", text),), payer=PAYER, is_embedding=True) for text in missing]
        replies = yield [plan_request(request) for request in asked]
        for text, reply in zip(missing, replies, strict=True):
            if reply.failed:
                raise ModelError(f"{model} gave no vector: {reply.error}")
            known[text] = read_vector(reply)
        found = np.stack([known[text] for text in texts])
        return found / np.maximum(1e-12, np.linalg.norm(found, axis=1, keepdims=True))

    return embed
