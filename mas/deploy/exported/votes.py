"""Nodes that count votes and ask no model."""

from edgewise.mas.deploy.exported.settings import NODES, Data
from edgewise.mas.deploy.exported.state import GraphState, received_replies
from edgewise.mas.runtime.node_text import NO_ANSWER, choose_by_vote


async def run_vote_node(name: str, state: GraphState) -> Data:
    """Return the answer with the most votes; among equals the one received first."""
    replies, weights = received_replies(state, name), NODES[name].get("weights", {})
    if not replies:
        return {"error": NO_ANSWER}
    votes = [weights.get(reply["node"], 1.0) for reply in replies]
    return {"text": choose_by_vote([reply["answer"] for reply in replies], votes)}
