"""A trained design in use, and its export as a LangGraph module. Read `agent_graph` first."""
