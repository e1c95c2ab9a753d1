"""
Roles: what an agent of a graph is told, what it may use, and what it gives.

`CATALOGUE` holds those that come with Edgewise; users add theirs from a TOML file or from Python (`catalogue`).
A role says how it acts (`mas.act` has the code):

    ask        a model is asked, with the role's tools where it has some
    program    a model writes a Python program, which is run; what it prints is said
    majority   no model: the answer that most of those it hears gave
    weighted   no model: the same, where each counts by the weight of its node
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Act = Literal["ask", "program", "majority", "weighted"]
Gives = Literal["answer", "plan", "notes", "verdict", "parts"]
"""
What a reply must be. "answer": an answer to the task. "plan", "notes": free text that is not empty. "parts": a
numbered list. "verdict": has a line `VERDICT: ACCEPT` or `VERDICT: REVISE`.
"""


class Role(BaseModel):
    """
    A role of the catalogue.

    `does` says in one line what it is for, to people and to models that design graphs. `prompt` is its instruction,
    "" for none: then the model is asked the task as it stands. `hears` is the fewest others it must hear to make
    sense. `turns` and `max_tokens` bound what one run may cost: at most `turns` calls of at most `max_tokens` each,
    where those are below the run's own. `temperature` None is the run's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][\w-]*$")
    does: str
    prompt: str = ""
    act: Act = "ask"
    gives: Gives = "answer"
    hears: int = Field(0, ge=0)
    tools: tuple[str, ...] = ()
    turns: int = Field(8, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)


Roles = Mapping[str, Role]

CATALOGUE: Roles = {
    role.name: role
    for role in (
        Role(name="solver", does="answers the task as it stands"),
        Role(
            name="programmer",
            does="writes a Python program that computes the answer, which is run",
            act="program",
            turns=2,
            prompt="Solve the task by a Python program. Write one complete program, in a ```python block, that "
            "contains all the data of the task, computes the answer, and prints nothing but the final answer, in the "
            "form that the task asks for.",
        ),
        Role(name="majority", does="takes the answer that most gave", act="majority", hears=2),
    )
}
