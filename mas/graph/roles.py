"""
Roles: what an agent of a graph is told, what it may use, what it gives, and what it may cost.

`CATALOGUE` holds those that come with Edgewise (catalogue.toml); users add theirs from a TOML file of the same form,
or from Python (`catalogue`). A role says how it acts (`mas.runtime.node` has the code):

    ask        a model is asked, with the role's tools where it has some
    program    a model writes a Python program, which is run; what it prints is said
    majority   no model: the answer that most of those it hears gave
    weighted   no model: the same, where each counts by the weight of its node
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.util.import_by_name import did_you_mean

Act = Literal["ask", "program", "majority", "weighted"]
Gives = Literal["answer", "plan", "notes", "verdict", "parts"]
"""
What a reply must be. "answer": an answer to the task. "plan", "notes": free text that is not empty. "parts": a
numbered list. "verdict": has a line `VERDICT: ACCEPT` or `VERDICT: REVISE`.
"""

VOTES: frozenset[Act] = frozenset({"majority", "weighted"})
ALL_TOOLS = "*"
LIKE = "like"
"""The key of a file that names the role whose other keys are taken over."""


class Role(BaseModel):
    """
    A role of the catalogue.

    `does` says in one line what it is for, to people and to models that design graphs. `prompt` is its instruction,
    "" for none: then the model is asked the task as it stands. `hears` is the fewest others it must hear to make
    sense. `tools` are names, "*" for all that the task has. `turns` and `max_tokens` bound what one run may cost: at
    most `turns` calls of at most `max_tokens` each, where those are below the run's own. `temperature` None is the
    run's. One that is `marked` thinks aloud first: its answer is what follows `RESULT:`, and others hear all of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][\w-]*$")
    does: str = Field(min_length=1)
    prompt: str = ""
    act: Act = "ask"
    gives: Gives = "answer"
    marked: bool = False
    hears: int = Field(0, ge=0)
    tools: tuple[str, ...] = ()
    turns: int = Field(8, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)

    @property
    def answers(self) -> bool:
        """Whether it may stand at the end of a graph: what it gives is an answer to the task."""
        return self.gives == "answer"

    @property
    def votes(self) -> bool:
        """Whether it asks no model, but counts the answers it hears."""
        return self.act in VOTES

    @model_validator(mode="after")
    def _fits_together(self) -> "Role":
        if self.votes and (self.prompt or self.tools or not self.answers):
            raise ValueError(f"act {self.act!r} asks no model: leave out prompt, tools, gives")
        if self.act == "program" and self.gives in ("verdict", "parts"):
            raise ValueError(f"a program gives an answer, a plan or notes, no {self.gives}")
        if self.gives == "verdict" and "VERDICT" not in self.prompt:
            raise ValueError("the prompt of a verdict must ask for a line VERDICT: ACCEPT or VERDICT: REVISE")
        if self.marked and (not self.answers or "RESULT:" not in self.prompt):
            raise ValueError("marked needs gives = 'answer' and a prompt that asks for a line RESULT:")
        return self


Roles = Mapping[str, Role]


def catalogue(*sources: str | Path | Role | Iterable[Role]) -> Roles:
    """
    The roles of Edgewise and of `sources`, in order: TOML files, roles, or several roles.

    A file has a table for each role, whose keys are those of `Role`; `like = "critic"` takes over all keys of a
    role from before that are not given. A name that was there is replaced, in its place. Raises GraphError that
    names file, role and key.
    """
    roles = dict(CATALOGUE)
    for source in sources:
        if isinstance(source, Role):
            roles[source.name] = source
        elif isinstance(source, str | Path):
            roles = _added(roles, Path(source))
        else:
            roles |= {role.name: role for role in source}
    return roles


def filter_roles(roles: Roles, tools: Iterable[str]) -> Roles:
    """The roles whose tools are all among `tools`, in order."""
    there = {ALL_TOOLS, *tools}
    return {name: role for name, role in roles.items() if there.issuperset(role.tools)}


def find_role(roles: Roles, name: str) -> Role:
    """The role of a name. Raises GraphError for one that does not exist."""
    if name not in roles:
        raise GraphError(f"There is no role {name!r}{did_you_mean(name, list(roles))}")
    return roles[name]


# ---- files -----------------------------------------------------------------------------------------


def _added(roles: Roles, path: Path) -> dict[str, Role]:
    """The roles with those of a file."""
    known = dict(roles)
    for name, table in _tables(path).items():
        known[name] = _role(known, name, table, f"{path}: role {name!r}")
    return known


def _tables(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise GraphError(f"There is no file of roles at {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"The file of roles {path} can't be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise GraphError(f"{path} is no TOML: {error}.") from error


def _role(known: Roles, name: str, table: Any, place: str) -> Role:
    if not isinstance(table, dict):
        raise GraphError(f"{place} must be a table: write [{name}] and its keys below.")
    given = {"name": name, **table}
    model = given.pop(LIKE, None)
    if model is not None:
        if not isinstance(model, str) or model not in known:
            raise GraphError(f"{place}, key {LIKE!r}: no role before it is called {model!r}.")
        given = known[model].model_dump(exclude_unset=True) | given
    keys = [*Role.model_fields, LIKE]
    for key in given:
        if key not in keys:
            raise GraphError(f"{place} has no key {key!r}{did_you_mean(key, keys)}")
    if given["name"] != name:
        raise GraphError(f"{place}, key 'name': the name of the table is the name; leave it out.")
    try:
        return Role.model_validate(_trimmed(given))
    except ValidationError as error:
        raise GraphError(f"{place}{_reason(error)}") from error


def _trimmed(given: dict[str, Any]) -> dict[str, Any]:
    """With each prompt as one paragraph a blank line apart: how a file breaks its lines is no matter."""
    prompt = given.get("prompt")
    return given | {"prompt": prompt.strip()} if isinstance(prompt, str) else given


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f": {said}."
    key = str(first["loc"][0])
    if key == "name":
        return ": a name is small letters, digits, - and _, and begins with a letter."
    if first["type"] == "missing":
        return f" lacks the key {key!r}."
    return f", key {key!r}: {said}, not {first['input']!r}."


CATALOGUE: Roles = _added({}, Path(__file__).with_name("catalogue.toml"))
"""The roles that come with Edgewise."""


def parse_roles(data: Any) -> Roles:
    """The roles of an artefact's roles.json. Raises GraphError for data that is none."""
    if not isinstance(data, Mapping):
        raise GraphError("roles.json holds no table of roles.")
    try:
        return {name: Role.model_validate(each) for name, each in data.items()}
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise GraphError(f"roles.json is not readable: {place}: {first['msg']}.") from error
