"""Learning by graph: agent graphs designed by reinforcement learning (MasHost, arXiv 2506.08507), run by LangGraph."""
