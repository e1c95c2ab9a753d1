"""
A graph run on one query, as a rollout: one step whose `calls` hold the rollouts of its agents.

(contract; the body comes from the compiler's side)

    def graph_rollout(graph, team, example, *, sample, seed, limits=None, shared=None) -> Plan[Rollout]
"""
