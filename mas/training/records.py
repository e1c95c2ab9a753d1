"""Records of the steps of a search for graphs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.mas.designs.interface import Design
from edgewise.mas.training.trials import EvaluatedGraphs, count_tokens, quality_of
from edgewise.toolkit.evaluation.gate import Choice
from edgewise.toolkit.evaluation.statistics import mean
from edgewise.toolkit.types import Group

MEASURING = 0
# Names of the arms that are measured.
ONE, DESIGNED, EQUAL = "one agent", "designed", "one agent, equal tokens"


@dataclass(frozen=True, slots=True)
class GraphStep:
    """The trials of a step; `choice` is the gate's, in the record after the last step."""

    number: int
    epoch: int
    evaluated: tuple[EvaluatedGraphs, ...] = ()
    choice: Choice[Design] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data: rewards, graphs and credits of the groups, the choice."""
        # The last run of a row is the plain agent's, which is a reference and no trial.
        rewards = [quality_of(run.rollout) for row in self.evaluated for run in row.runs[:-1]]
        groups = []
        for row in self.evaluated:
            trials = [
                {
                    "graph": trial.draft.graph.version,
                    "nodes": [node.name for node in trial.draft.graph.nodes],
                    "edges": [list(edge) for edge in trial.draft.graph.edges],
                    "reward": trial.reward,
                    "parts": dict(trial.parts),
                    "credit": dict(trial.credit),
                }
                for trial in row.trials.trials
            ]
            groups.append({"example": row.row.id, "one_agent": quality_of(row.plain), "trials": trials})
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": {
                "runs": len(rewards),
                "mean_reward": mean(rewards),
                "mixed": mean([len({t.reward for t in row.trials.trials}) > 1 for row in self.evaluated]),
            },
            "groups": groups,
            "gate": self.choice.to_json() if self.choice else None,
        }

    def summary(self) -> str:
        """Return one line for people."""
        if self.choice:
            return f"gate, against one agent at equal tokens: {self.choice.summary()}"
        trials = [trial for row in self.evaluated for trial in row.trials.trials]
        quality = mean([trial.parts.get("quality", 0.0) for trial in trials])
        alone = mean([quality_of(row.plain) for row in self.evaluated])
        sizes = mean([len(trial.draft.graph) for trial in trials])
        return (
            f"step {self.number}: graphs {quality:.2f}, one agent {alone:.2f}, {sizes:.1f} agents a graph, "
            f"{len({trial.draft.graph.version for trial in trials})} different graphs"
        )


def count_group_tokens(groups: Sequence[Group]) -> int:
    """Return the tokens of all rollouts of groups."""
    return sum(count_tokens(rollout) for group in groups for rollout in group.rollouts)
