"""
A tabular joint policy for tiny spaces: a logit of its own for each state, action and agent.

The factorisation is that of `mas.search.policy.network` (node action, then edges given it); nothing is shared between states, so it
learns what it has seen and nothing else. Queries are told apart by a key, the text of a row or whatever `key` gives.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import BuildState, Move, Space, apply, build_graph, replay
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.policy import subset_sampling
from edgewise.mas.search.policy.state_features import StateBatch, MoveBatch, encode_states
from edgewise.toolkit.errors import GraphError

Row = NDArray[np.float64]
Table = Mapping[str, tuple[float, ...]]


def same(query: Query) -> str:
    """The key of a policy that does not look at queries."""
    return ""


def by_features(query: Query) -> str:
    """A key for queries whose features are a code: the place of the largest one."""
    return str(int(query.features.argmax()))


KEYS: Mapping[str, Callable[[Query], str]] = {"same": same, "by_features": by_features}


@dataclass(frozen=True)
class TabularPolicy:
    """`logits` by state (and by state and action, for edges); what is not in it is 0. `key` is a name of `KEYS`."""

    space: Space
    logits: Table = field(default_factory=dict)
    key: str = "same"
    joint: bool = True

    @property
    def version(self) -> str:
        """A hash of space and logits."""
        return self._version

    @cached_property
    def _version(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def sample(self, queries: Sequence[Query], seeds: Sequence[int]) -> list[tuple[Move, ...]]:
        """One build for each query; each depends on its own query and seed alone."""
        draws = [np.random.default_rng(s).random((self.space.moves, self.space.agents + 1)) for s in seeds]
        return [
            self._built(q, lambda turn, u=u: subset_sampling.SampleMoves(u[turn][None]))
            for q, u in zip(queries, draws, strict=True)
        ]

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """The graph of the likeliest moves for each query."""
        builds = [self._built(q, lambda turn: subset_sampling.TakeLikeliest()) for q in queries]
        return [build_graph(self.space, replay(self.space, moves)) for moves in builds]

    def learner(self, rate: float, clip: float) -> "TabularLearner":
        """What learns from here on."""
        return TabularLearner(self, rate)

    def _built(self, query: Query, chooser: Callable[[int], Any]) -> tuple[Move, ...]:
        state, moves = BuildState(), []
        while not state.done:
            choose, now = chooser(len(moves)), encode_states(self.space, [state])
            head = Head(self.logits, now, 0, KEYS[self.key](query))
            action = int(choose.one(head.nodes()[None])[0])
            moves.append(Move(action, self._agents(choose, head, action)))
            state = apply(self.space, state, moves[-1])
        return tuple(moves)

    def _agents(self, choose: Any, head: "Head", action: int) -> tuple[int, ...]:
        if action == self.space.exit_action:
            return ()
        if action == self.space.delete_action:
            return (int(choose.another(head.gone(action)[None])[0]),)
        chosen = choose.several(head.chances(action)[None], np.array([self.space.min_inputs[action]]))[0]
        return tuple(map(int, np.flatnonzero(chosen)))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        logits = {name: list(row) for name, row in sorted(self.logits.items())}
        return {
            "kind": "tabular",
            "space": self.space.to_json(),
            "key": self.key,
            "joint": self.joint,
            "logits": logits,
        }

    @classmethod
    def from_json(cls, data: Any) -> "TabularPolicy":
        """Read plain data. Raises GraphError for data that is no tabular policy."""
        try:
            space = Space.from_json(data["space"])
            logits = {name: tuple(map(float, row)) for name, row in data["logits"].items()}
            fits = {space.num_actions, space.agents}
            if data["key"] not in KEYS or not all(
                len(r) in fits and np.isfinite(r).all() for r in logits.values()
            ):
                raise ValueError("a key that is not there, or logits that do not fit the space")
            return cls(space, logits, data["key"], bool(data["joint"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(f"The tabular policy of agent graphs is not readable: {error}.") from error


@dataclass(frozen=True, slots=True)
class Head:
    """The chances in one row of `states`, under a key of the query."""

    logits: Mapping[str, Any]
    states: StateBatch
    row: int
    key: str

    @property
    def name(self) -> str:
        """The state's name in the table."""
        size = int(self.states.size[self.row])
        roles = ",".join(map(str, self.states.roles[self.row, :size]))
        hears = ",".join(
            "".join(map(str, each.astype(int)[:size])) for each in self.states.hears[self.row, :size]
        )
        return f"{self.key}|{roles}|{hears}"

    def nodes(self) -> Row:
        """(K + 2,) chances of node actions."""
        mask = self.states.mask[self.row]
        return _softmax(np.where(mask, self._of(self.name, len(mask)), -np.inf))

    def chances(self, action: int) -> Row:
        """(N,) the chance of each agent to be heard, before the condition that there are enough."""
        there = self.states.there[self.row]
        return there / (1 + np.exp(-self._of(f"{self.name}|{action}", len(there))))

    def gone(self, action: int) -> Row:
        """(N,) the chance of each agent to go."""
        may = self.states.deletable[self.row]
        return _softmax(np.where(may, self._of(f"{self.name}|{action}", len(may)), -np.inf))

    def _of(self, name: str, length: int) -> Row:
        return np.asarray(self.logits.get(name, np.zeros(length)), np.float64)


class TabularLearner:
    """The logits while they are learned, by plain gradient descent; gradients are written out."""

    def __init__(self, policy: TabularPolicy, rate: float):
        self.start, self.rate = policy, rate
        self.logits = {name: np.array(row) for name, row in policy.logits.items()}

    def policy(self) -> TabularPolicy:
        """The logits as they are."""
        logits = {name: tuple(row.tolist()) for name, row in self.logits.items()}
        return TabularPolicy(self.start.space, logits, self.start.key, self.start.joint)

    def logp(self, moves: MoveBatch, queries: Sequence[Query]) -> Row:
        """(1, M) log-probs of whole moves."""
        return np.array([[self._scored(head, moves, row)[0] for row, head in self._heads(moves, queries)]])

    def update(
        self,
        moves: MoveBatch,
        queries: Sequence[Query],
        old_logp: Row,
        advantage: Row,
        weights: Row,
        loss: Any,
        penalties: Sequence[Any] = (),
    ) -> float:
        """One step down sum((loss + penalties) * weights), as `mas.search.policy.network.Learner.update`; the value before it."""
        from edgewise.mas.search.policy.network import slopes

        heads = list(self._heads(moves, queries))
        scored = [self._scored(head, moves, row) for row, head in heads]
        logp, spread = (np.array(each) for each in zip(*scored, strict=True))
        value, by_logp, by_spread = slopes(loss, penalties, logp, old_logp[0], advantage, spread, weights)
        changes: dict[str, Row] = {}
        for (row, head), a, b in zip(heads, by_logp, by_spread, strict=True):
            for name, change in self._gradient(head, moves, row, a, b):
                changes[name] = changes.get(name, 0.0) + change
        for name, change in changes.items():
            self.logits[name] = self.logits.get(name, np.zeros(len(change))) - self.rate * change
        return value

    def _heads(self, moves: MoveBatch, queries: Sequence[Query]) -> list[tuple[int, Head]]:
        key = KEYS[self.start.key]
        return [(r, Head(self.logits, moves.states, r, key(queries[b]))) for r, b in enumerate(moves.build)]

    def _scored(self, head: Head, moves: MoveBatch, row: int) -> tuple[float, float]:
        """Log-prob of a move, and the entropy of its node action."""
        p, action, space = head.nodes(), int(moves.action[row]), self.start.space
        found, chosen, least = np.log(p[action]), moves.chosen[row], int(moves.least[row])
        if action == space.delete_action:
            found += np.log(head.gone(action)[chosen]).sum()
        elif action != space.exit_action:
            e, there = head.chances(action), moves.states.there[row]
            found += np.log(np.where(chosen, e, 1 - e)[there]).sum()
            found -= np.log(subset_sampling.tail_probabilities(e[None], least)[0][least][0])
        return float(found), float(-(p * np.log(np.maximum(p, 1e-300))).sum())

    def _gradient(self, head: Head, moves: MoveBatch, row: int, a: float, b: float) -> list[tuple[str, Row]]:
        """What one move changes, where `a` and `b` are the slopes by its log-prob and its entropy."""
        p, action, space = head.nodes(), int(moves.action[row]), self.start.space
        logs = np.log(np.maximum(p, 1e-300))
        node = a * ((np.arange(len(p)) == action) - p) - b * p * (logs - (p * logs).sum())
        if action == space.exit_action:
            return [(head.name, node)]
        chosen = moves.chosen[row].astype(np.float64)
        expected = (
            head.gone(action)
            if action == space.delete_action
            else marginals(head.chances(action), int(moves.least[row]))
        )
        return [(head.name, node), (f"{head.name}|{action}", a * (chosen - expected))]


def marginals(p: Row, least: int) -> Row:
    """(N,) the chance that each is chosen, given that at least so many are."""
    whole = subset_sampling.tail_probabilities(p[None], least)[0][least][0]
    fewer = max(least - 1, 0)
    return np.array(
        [
            p[j] * subset_sampling.tail_probabilities(np.delete(p, j)[None], fewer)[0][fewer][0] / whole
            for j in range(len(p))
        ]
    )


def _softmax(logits: Row) -> Row:
    if not np.isfinite(logits).any():
        return np.zeros(len(logits))
    chances = np.exp(logits - logits.max())
    return chances / chances.sum()
