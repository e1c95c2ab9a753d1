"""Records of a step of the graph search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.mas.designs.interface import Design
from edgewise.mas.training.trials import EvaluatedGraphs, count_tokens
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.evaluation.gate import Choice
from edgewise.toolkit.types import Group

MEASURING = 0
ONE, DESIGNED, EQUAL = "one agent", "designed", "one agent, equal tokens"
"""Names of the arms that are measured."""


@dataclass(frozen=True, slots=True)
class GraphStep:
    """What a step of the search saw; `choice` is the gate's, in the record after the last step."""

    number: int
    epoch: int
    tried: tuple[EvaluatedGraphs, ...] = ()
    choice: Choice[Design] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: rewards, graphs and credits of the groups, the choice."""
        runs = [run.rollout for each in self.tried for run in each.runs[:-1]]
        rewards = [valid_reward(run) or 0.0 for run in runs]
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": {
                "runs": len(runs),
                "mean_reward": mean(rewards),
                "mixed": mean([len({t.reward for t in each.trials.trials}) > 1 for each in self.tried]),
            },
            "groups": [_tried_json(each) for each in self.tried],
            "gate": self.choice.to_json() if self.choice else None,
        }

    def summary(self) -> str:
        """One line for people."""
        if self.choice:
            return f"gate, against one agent at equal tokens: {self.choice.summary()}"
        found = [t for each in self.tried for t in each.trials.trials]
        quality = mean([t.parts.get("quality", 0.0) for t in found])
        alone = mean([valid_reward(each.runs[-1].rollout) or 0.0 for each in self.tried])
        sizes = mean([len(t.draft.graph) for t in found])
        return (
            f"step {self.number}: graphs {quality:.2f}, one agent {alone:.2f}, {sizes:.1f} agents a graph, "
            f"{len({t.draft.graph.version for t in found})} different graphs"
        )


def _tried_json(each: EvaluatedGraphs) -> dict[str, Any]:
    return {
        "example": each.row.id,
        "one_agent": valid_reward(each.runs[-1].rollout) or 0.0,
        "trials": [
            {
                "graph": t.draft.graph.version,
                "nodes": [node.name for node in t.draft.graph.nodes],
                "edges": [list(edge) for edge in t.draft.graph.edges],
                "reward": t.reward,
                "parts": dict(t.parts),
                "credit": dict(t.credit),
            }
            for t in each.trials.trials
        ],
    }


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def count_group_tokens(groups: Sequence[Group]) -> int:
    return sum(count_tokens(run) for group in groups for run in group.rollouts)
