"""
A graph run on one query, as a rollout: one step whose `calls` hold the rollouts of its agents.

To be written by the compiler's side; the names below are what others rely on.

    @dataclass(frozen=True, slots=True)
    class GraphLimits:      # of one graph run; None for none
        calls: int | None = None; tokens: int | None = None; usd: float | None = None
        node_seconds: float | None = None; concurrency: int | None = None

    @dataclass(frozen=True, slots=True)
    class GraphRun:
        graph: Graph
        rollout: Rollout                       # role "graph", version = graph.version (or what the caller gives)
        outcomes: Mapping[str, tuple[Outcome, ...]]   # by node, one for each round that it ran
        reused: frozenset[str]                 # nodes that were taken from another run of the group

    class Shared: ...       # what the runs of one group share: same sub-graph, same query, same sample -> run once

    def graph_run(graph, team, example, *, sample, seed, limits=GraphLimits(), shared=None, version=None,
                  rewards=None) -> Plan[GraphRun]
"""
