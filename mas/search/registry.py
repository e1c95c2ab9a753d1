"""The searchers by the name that the setting `search` gives them; all have the same interface and the same budget."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgewise.mas.config import GraphConfig
from edgewise.mas.designs.interface import Searcher
from edgewise.mas.spec import GraphSpec

if TYPE_CHECKING:
    from edgewise.mas.search.policy.hrpo import HrpoSettings


def create_searcher(job: GraphSpec) -> Searcher:
    """The searcher that the job asks for."""
    return SEARCHERS[job.config.search](job)


def _hrpo(job: GraphSpec) -> Searcher:
    from edgewise.mas.search.policy.hrpo import Hrpo
    from edgewise.mas.search.policy.network import NetworkPolicy

    config = job.config
    start = NetworkPolicy.start(job.space, job.feature_count, config.seed, encoder=job.encoder, joint=config.joint)
    return Hrpo(start, _ablated(config))


def _tabular(job: GraphSpec) -> Searcher:
    from edgewise.mas.search.policy.hrpo import Hrpo
    from edgewise.mas.search.policy.tabular import TabularPolicy

    return Hrpo(TabularPolicy(job.space, joint=job.config.joint), _ablated(job.config))


def _ablated(config: GraphConfig) -> "HrpoSettings":
    from edgewise.mas.search.policy.hrpo import HrpoSettings

    return HrpoSettings(
        action_reward=config.action_reward,
        group_advantage=config.group_advantage,
        exemption=config.exemption,
    )


def _random(job: GraphSpec) -> Searcher:
    from edgewise.mas.search.baselines import RandomSearch

    return RandomSearch(job.space)


def _fixed(job: GraphSpec) -> Searcher:
    from edgewise.mas.designs.patterns import standard_graphs
    from edgewise.mas.search.baselines import BestOf

    return BestOf(standard_graphs(job.space))


def _edges(job: GraphSpec) -> Searcher:
    from edgewise.mas.search.baselines import EdgeReinforce

    answering = [name for name, role in job.roles.items() if role.answers]
    others = [name for name in job.roles if name not in answering]
    # The exit is the last agent, so one that answers goes there.
    return EdgeReinforce((*others, *answering[::-1])[-job.config.agents :])


def _evolution(job: GraphSpec) -> Searcher:
    from edgewise.mas.search.llm.evolution import Evolution

    return Evolution(job.space, job.roles, job.designer)


def _lessons(job: GraphSpec) -> Searcher:
    from edgewise.experience.guard.guard import Guard
    from edgewise.mas.search.llm.lesson_search import LessonSearch

    return LessonSearch(job.space, job.roles, job.designer, job.encoder, guard=Guard.from_examples(job.task.train))


SEARCHERS: Mapping[str, Callable[[GraphSpec], Searcher]] = {
    "hrpo": _hrpo,
    "tabular": _tabular,
    "random": _random,
    "fixed": _fixed,
    "edges": _edges,
    "evolution": _evolution,
    "lessons": _lessons,
}
