"""State of a run, and what a node receives from it."""

from typing import Annotated, NotRequired, TypedDict

from edgewise.mas.deploy.exported.settings import LOOPS, NODES, Data


class NodeReply(TypedDict):
    """
    Result of one run of a node.

    `text` is what other nodes receive, "" for nothing, and `answer` is its answer alone. `accepts` is its verdict, None
    where it gives none; `error` says what went wrong, "" for nothing.
    """

    node: str
    text: str
    answer: str
    accepts: bool | None
    error: str


def merge_replies(old: dict[str, list[NodeReply]], new: dict[str, list[NodeReply]]) -> dict[str, list[NodeReply]]:
    """Append new replies to those of each node: nodes of one step write here together, a node in a loop repeatedly."""
    return {**old, **{name: [*old.get(name, []), *replies] for name, replies in new.items()}}


class GraphState(TypedDict):
    """`messages` is the question, `answer` the result, `said` the replies of each node, one for each round."""

    messages: list[Data]
    said: NotRequired[Annotated[dict[str, list[NodeReply]], merge_replies]]
    answer: NotRequired[str]


def latest_reply(state: GraphState, name: str) -> NodeReply | None:
    """Return the last reply of a node that has a text: a later round that failed does not withdraw it."""
    # Absent until the first node has run.
    replies = state.get("said", {}).get(name, [])
    return next((reply for reply in reversed(replies) if reply["text"]), None)


def received_replies(state: GraphState, name: str) -> list[NodeReply]:
    """Return the replies that a node receives: those of its inputs, then that of the node that sent it back."""
    # Before round 1 the sender has no reply, so nothing is added.
    senders = [source for source, (target, _) in LOOPS.items() if target == name]
    replies = (latest_reply(state, other) for other in [*NODES[name]["inputs"], *senders])
    return [reply for reply in replies if reply]
