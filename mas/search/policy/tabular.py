"""
Policy as a table, for tiny spaces: a logit of its own for each state, action and agent.

Nothing is shared between states, so it learns what it has tried and nothing else. Queries are told apart by a key.

B states, K roles, N the most agents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import Space
from edgewise.mas.search.policy.build_policy import BuildPolicy, MoveProbabilities, ReadProbabilities
from edgewise.mas.search.policy.state_features import StateBatch
from edgewise.mas.search.policy.subset_sampling import Booleans, Floats, Integers
from edgewise.toolkit.errors import GraphError

Logits = Mapping[str, tuple[float, ...]]

# What the table knows of a query, by the name that the policy stores.
KEYS: Mapping[str, Callable[[Query], str]] = {
    "same": lambda query: "",
    # For features that are a one-hot code: the index of the largest.
    "by_features": lambda query: str(int(query.features.argmax())),
}


@dataclass(frozen=True)
class TabularPolicy(BuildPolicy):
    """
    `logits` of actions by state, and of agents by state and action; a row that is missing is all 0.

    `key` is a name of `KEYS`.
    """

    space: Space
    logits: Logits = field(default_factory=dict)
    key: str = "same"
    joint: bool = True

    def read_probabilities(self, queries: Sequence[Query]) -> ReadProbabilities:
        """Return a function that reads the probabilities of moves on these queries."""
        keys = [KEYS[self.key](query) for query in queries]

        def read(rows: list[int], states: StateBatch) -> MoveProbabilities:
            names = name_states(states, [keys[row] for row in rows])
            actions = masked_softmax(self.rows(names, self.space.num_actions), states.action_mask)

            def agents(chosen: Integers) -> tuple[Floats, Floats]:
                with_actions = [f"{name}|{action}" for name, action in zip(names, chosen, strict=True)]
                logits = self.rows(with_actions, self.space.agents)
                return states.is_agent / (1 + np.exp(-logits)), masked_softmax(logits, states.can_delete)

            return MoveProbabilities(actions, agents)

        return read

    def rows(self, names: Sequence[str], width: int) -> Floats:
        """Return the rows [B, width] of the table with these names."""
        return np.array([self.logits.get(name, np.zeros(width)) for name in names], np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        logits = {name: list(row) for name, row in sorted(self.logits.items())}
        head = {"kind": "tabular", "space": self.space.to_json(), "key": self.key}
        return {**head, "joint": self.joint, "logits": logits}

    @classmethod
    def from_json(cls, data: Any) -> "TabularPolicy":
        """Read plain data. Raises GraphError for data that is no tabular policy."""
        try:
            space = Space.from_json(data["space"])
            logits = {name: tuple(map(float, row)) for name, row in data["logits"].items()}
            widths = {space.num_actions, space.agents}
            is_valid = all(len(row) in widths and np.isfinite(row).all() for row in logits.values())
            if data["key"] not in KEYS or not is_valid:
                raise ValueError("a key that is not there, or logits that do not fit the space")
            return cls(space, logits, data["key"], bool(data["joint"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(f"The tabular policy of agent graphs is not readable: {error}.") from error


def name_states(states: StateBatch, keys: Sequence[str]) -> list[str]:
    """Return the names of states in the table, "key|roles|inputs" as in "|0,2|00,10"; agents' rows end in "|action"."""
    names = []
    for key, size, roles, inputs in zip(keys, states.size, states.roles, states.inputs, strict=True):
        rows = ("".join(map(str, row)) for row in inputs[:size, :size].astype(int))
        names.append(f"{key}|{','.join(map(str, roles[:size]))}|{','.join(rows)}")
    return names


def masked_softmax(logits: Floats, mask: Booleans) -> Floats:
    """Return probabilities [B, n] of the entries in the mask; 0 for rows without any."""
    logits = np.where(mask, logits, -np.inf)
    top = logits.max(1, keepdims=True)
    odds = np.where(mask, np.exp(logits - np.where(np.isfinite(top), top, 0.0)), 0.0)
    return odds / np.maximum(odds.sum(1, keepdims=True), 1e-300)
