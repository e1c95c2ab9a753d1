"""LangGraph programs of users that learn lessons for their nodes. Read `api` first."""
