"""
A usual LangGraph graph: two nodes, each a plain call of the openai package.

It does not import Edgewise; `your_langgraph.py` learns lessons for its nodes.
"""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from openai import OpenAI

client = OpenAI()
MODEL = "gpt-4o-mini"


class State(TypedDict, total=False):
    receipt: str
    amounts: str
    total: str


def ask_model(system: str, text: str) -> str:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content


def find_amounts(state: State) -> State:
    return {"amounts": ask_model("You list the amounts in a receipt.", state["receipt"])}


def write_total(state: State) -> State:
    return {"total": ask_model("You write the total of some amounts.", state["amounts"])}


builder = StateGraph(State)
builder.add_node("find_amounts", find_amounts)
builder.add_node("write_total", write_total)
builder.add_edge(START, "find_amounts")
builder.add_edge("find_amounts", "write_total")
builder.add_edge("write_total", END)
app = builder.compile()


def ask(receipt: str) -> str:
    return app.invoke({"receipt": receipt})["total"]
