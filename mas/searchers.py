"""The searchers by the name that the setting `search` gives them; all have the same interface and the same budget."""

from collections.abc import Callable, Mapping

from mas.job import Job
from mas.search import Searcher


def searcher(job: Job) -> Searcher:
    """The searcher that the job asks for."""
    return SEARCHERS[job.config.search](job)


def _hrpo(job: Job) -> Searcher:
    from mas.hrpo import Hrpo, HrpoSettings
    from mas.policy import Policy

    config = job.config
    start = Policy.start(job.space, job.features, config.seed, encoder=job.encoder, joint=config.joint)
    return Hrpo(
        start,
        HrpoSettings(
            action_reward=config.action_reward,
            group_advantage=config.group_advantage,
            exemption=config.exemption,
            joint=config.joint,
        ),
    )


def _random(job: Job) -> Searcher:
    from mas.baselines import RandomSearch

    return RandomSearch(job.space)


def _fixed(job: Job) -> Searcher:
    from mas.baselines import BestOf, standard

    return BestOf(standard(tuple(job.roles)))


def _edges(job: Job) -> Searcher:
    from mas.baselines import Edges

    answering = [name for name, role in job.roles.items() if role.answers]
    others = [name for name in job.roles if name not in answering]
    # The exit is the last agent, so one that answers goes there.
    return Edges((*others, *answering[::-1])[-job.config.agents :])


def _evolution(job: Job) -> Searcher:
    from mas.evolve import Evolution

    return Evolution(job.space, job.roles, job.designer)


def _lessons(job: Job) -> Searcher:
    from experience.guard import Guard
    from mas.lessons import Lessons

    return Lessons(job.space, job.roles, job.designer, job.encoder, guard=Guard.of(job.task.train))


SEARCHERS: Mapping[str, Callable[[Job], Searcher]] = {
    "hrpo": _hrpo,
    "random": _random,
    "fixed": _fixed,
    "edges": _edges,
    "evolution": _evolution,
    "lessons": _lessons,
}
