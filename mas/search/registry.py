"""Searchers by the name that the setting `search` gives them; all have the same interface and the same budget."""

from edgewise.mas.designs.interface import Searcher
from edgewise.mas.spec import GraphSpec


def create_searcher(spec: GraphSpec) -> Searcher:
    """Return the searcher that the settings name. Each is imported only when it is used: two of them need torch."""
    config, space, roles = spec.config, spec.space, spec.roles
    match config.search:
        case "hrpo" | "tabular":
            from edgewise.mas.search.policy.hrpo import Hrpo, HrpoSettings
            from edgewise.mas.search.policy.network import NetworkPolicy
            from edgewise.mas.search.policy.tabular import TabularPolicy

            settings = HrpoSettings(
                action_reward=config.action_reward, group_advantage=config.group_advantage, exemption=config.exemption
            )
            if config.search == "tabular":
                return Hrpo(TabularPolicy(space, joint=config.joint), settings)
            policy = NetworkPolicy.start(
                space, spec.feature_count, config.seed, encoder=spec.encoder, joint=config.joint
            )
            return Hrpo(policy, settings)
        case "random":
            from edgewise.mas.search.baselines import RandomSearch

            return RandomSearch(space)
        case "fixed":
            from edgewise.mas.designs.patterns import standard_graphs
            from edgewise.mas.search.baselines import BestOf

            return BestOf(standard_graphs(space))
        case "edges":
            from edgewise.mas.search.baselines import EdgeReinforce

            # The last agent is the exit, so roles that answer come last, the first of them at the end.
            answering = [name for name, role in roles.items() if role.answers]
            others = [name for name in roles if name not in answering]
            return EdgeReinforce((*others, *answering[::-1])[-config.agents :])
        case "evolution":
            from edgewise.mas.search.llm.evolution import Evolution

            return Evolution(space, roles, spec.designer)
        case "lessons":
            from edgewise.experience.guard.guard import Guard
            from edgewise.mas.search.llm.lesson_search import LessonSearch

            guard = Guard.from_examples(spec.task.train)
            return LessonSearch(space, roles, spec.designer, spec.encoder, guard=guard)
    raise ValueError(f"search={config.search} is no searcher: mas.two_level has a training loop of its own.")
