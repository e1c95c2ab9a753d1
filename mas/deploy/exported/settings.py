"""
Settings and the graph itself.

The writer puts the values of a graph in place of those below, which are a graph of one agent.
"""

import os
from typing import Any

Data = dict[str, Any]

DEFAULT_MODEL = "gpt-4o-mini"
DEFAULT_URL: str | None = None  # None: api.openai.com
MODEL = os.environ.get("MODEL", DEFAULT_MODEL)
BASE_URL = os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
API_KEY = os.environ.get("OPENAI_API_KEY", "none")
SAMPLING: Data = {}
# Most seconds of one run of a node.
NODE_SECONDS = 300.0
# Most steps of LangGraph, all rounds of all loops included.
MAX_STEPS = 6

# By node its row: its kind, the nodes whose replies it receives, and what differs from the usual.
#     instruction, lessons            text behind the question
#     gives, marked                   what a reply must be; a marked one has its answer behind RESULT:
#     model, temperature, max_tokens  in place of MODEL and SAMPLING
#     tools, turns                    tools that it may call, and the most calls of the model
#     weights                         of a vote, by node
NODES: dict[str, Data] = {"solver": {"kind": "model", "inputs": []}}
# The node whose reply is the answer.
EXIT = "solver"
# By node with a verdict: the node that runs again until the verdict accepts, and how often it does at most.
LOOPS: dict[str, tuple[str, int]] = {}
# By tool: its description for the model.
TOOL_SCHEMAS: dict[str, Data] = {}
