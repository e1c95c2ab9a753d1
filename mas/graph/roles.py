"""
Roles: the prompt of an agent, its tools, its contract, and the most that it may cost.

`CATALOGUE` holds those that come with Edgewise (catalogue.toml); users add theirs from a TOML file of the same form,
or from Python (`catalogue`). A role says how it acts (`mas.runtime.node` has the code):

    ask        a model is asked, with the role's tools where it has some
    program    a model writes a Python program, which is run; what it prints is the output
    majority   no model: the answer that most of its inputs gave
    weighted   no model: the same, where each input counts by the weight of its node
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.util.import_by_name import did_you_mean
from edgewise.toolkit.util.validation import describe_error, first_error

Act = Literal["ask", "program", "majority", "weighted"]
Gives = Literal["answer", "plan", "notes", "verdict", "parts"]
"""
Contract of a reply. "answer": an answer to the task. "plan", "notes": free text that is not empty. "parts": a
numbered list. "verdict": has a line `VERDICT: ACCEPT` or `VERDICT: REVISE`.
"""

VOTES: frozenset[Act] = frozenset({"majority", "weighted"})
ALL_TOOLS = "*"
LIKE = "like"
"""Key of a file that names the role whose other keys are taken over."""


class Role(BaseModel):
    """
    A role of the catalogue. The names of fields are keys of files, and all but `name` and `does` are part of seeds.

    `does` says in one line what it is for, to people and to models that design graphs. `prompt` is its instruction,
    "" for none: then the model is asked the task as it stands. `hears` is the fewest inputs that it needs to make
    sense. `tools` are names, "*" for all that the task has. One run makes at most `turns` calls of at most
    `max_tokens` each, where those are below the run's own limits. `temperature` None is the run's. One that is
    `marked` thinks aloud first: its answer is what follows `RESULT:`, and other nodes receive all of it.
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
        """Whether its output is an answer to the task, so that it may be the exit of a graph."""
        return self.gives == "answer"

    @property
    def votes(self) -> bool:
        """Whether it asks no model, but counts the answers that it receives."""
        return self.act in VOTES

    @model_validator(mode="after")
    def check_consistency(self) -> "Role":
        """Raise ValueError for fields that contradict each other."""
        # A contract must be one that the reply can keep: the prompt has to ask for the line that is checked.
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
    Return the roles of Edgewise and of `sources`, in order: TOML files, roles, or several roles.

    A file has a table for each role, whose keys are those of `Role`; `like = "critic"` takes over all keys of an
    earlier role that are not given. A role with the name of an earlier one replaces it, in its place. Raises
    GraphError that names file, role and key.
    """
    # Later sources win, so a user's file may replace a role of the catalogue.
    roles = dict(CATALOGUE)
    for source in sources:
        if isinstance(source, Role):
            roles[source.name] = source
        elif isinstance(source, str | Path):
            roles = add_file(roles, Path(source))
        else:
            roles |= {role.name: role for role in source}
    return roles


def filter_roles(roles: Roles, tools: Iterable[str]) -> Roles:
    """Return the roles whose tools are all among `tools`, in order."""
    available = {ALL_TOOLS, *tools}
    return {name: role for name, role in roles.items() if available.issuperset(role.tools)}


def find_role(roles: Roles, name: str) -> Role:
    """Return the role of a name. Raises GraphError for one that does not exist."""
    if name not in roles:
        raise GraphError(f"There is no role {name!r}{did_you_mean(name, list(roles))}")
    return roles[name]


def parse_roles(data: Any) -> Roles:
    """Return the roles of an artefact's roles.json. Raises GraphError for other data."""
    if not isinstance(data, Mapping):
        raise GraphError("roles.json holds no table of roles.")
    try:
        return {name: Role.model_validate(role) for name, role in data.items()}
    except ValidationError as error:
        raise GraphError(f"roles.json is not readable: {describe_error(error)}.") from error


# ---- files -----------------------------------------------------------------------------------------


def add_file(roles: Roles, path: Path) -> dict[str, Role]:
    """Return the roles with those of a TOML file."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise GraphError(f"There is no file of roles at {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"The file of roles {path} can't be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise GraphError(f"{path} is no TOML: {error}.") from error
    merged = dict(roles)
    for name, table in tables.items():
        # One after the other, as a role may be like one above it in the same file.
        merged[name] = read_role(merged, name, table, f"{path}: role {name!r}")
    return merged


def read_role(known: Roles, name: str, table: Any, place: str) -> Role:
    """Return the role of a table; `place` begins the messages of errors."""
    if not isinstance(table, dict):
        raise GraphError(f"{place} must be a table: write [{name}] and its keys below.")
    fields = {"name": name, **table}
    like = fields.pop(LIKE, None)
    if like is not None:
        if not isinstance(like, str) or like not in known:
            raise GraphError(f"{place}, key {LIKE!r}: no role before it is called {like!r}.")
        fields = known[like].model_dump(exclude_unset=True) | fields

    keys = [*Role.model_fields, LIKE]
    for key in fields:
        if key not in keys:
            raise GraphError(f"{place} has no key {key!r}{did_you_mean(key, keys)}")
    if fields["name"] != name:
        raise GraphError(f"{place}, key 'name': the name of the table is the name; leave it out.")
    if isinstance(fields.get("prompt"), str):
        # A prompt in triple quotes ends with a line break that nobody meant.
        fields["prompt"] = fields["prompt"].strip()

    try:
        return Role.model_validate(fields)
    except ValidationError as error:
        field, message, kind, value = first_error(error)
        key = field.partition(".")[0]
        if not key:
            reason = f": {message}."
        elif key == "name":
            reason = ": a name is small letters, digits, - and _, and begins with a letter."
        elif kind == "missing":
            reason = f" lacks the key {key!r}."
        else:
            reason = f", key {key!r}: {message}, not {value!r}."
        raise GraphError(f"{place}{reason}") from error


CATALOGUE: Roles = add_file({}, Path(__file__).with_name("catalogue.toml"))
"""The roles that come with Edgewise."""
