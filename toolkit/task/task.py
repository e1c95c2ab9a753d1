"""
A task: rows, the prompt they are put into, and the reward that grades an answer.

`Task.read` takes a task file, `Task.from_rows` rows and a function. Both check everything that can be checked
without a model, and raise a `TaskError` of one sentence. Rows become examples in `toolkit.task.examples`.
"""

import hashlib
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError, model_validator

from edgewise.toolkit.environments.protocol import Spec as WorldSpec
from edgewise.toolkit.environments.protocol import World, resolve_world
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.reward.reward import Reward, resolve_reward
from edgewise.toolkit.task.examples import Layout, SourcedExample, canonical_json, to_examples
from edgewise.toolkit.task.readers import Row, check_file, read_rows, as_task_error
from edgewise.toolkit.task.splits import (
    SPLITS,
    Files,
    Fractions,
    Parts,
    Split,
    Splits,
    check_row_lists,
    split_rows,
)
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import Example
from edgewise.toolkit.util.import_by_name import did_you_mean

TABLES = ("task", "improve", "graph", "weights")


class TaskSpec(Layout, frozen=True):
    """What a task file and `Task.from_rows` have in common: the same words for the same things."""

    name: str = "task"
    splits: Splits = Fractions(train=0.4, validation=0.3, test=0.3)


class TaskFile(TaskSpec, frozen=True):
    """The [task] table of a task file. `rows` is left out where `splits` names a file per split."""

    rows: str | None = None
    reward: str | dict[str, Any] | list[str | dict[str, Any]] = "exact"
    tools: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _played(cls, values: Any) -> Any:
        return {"reward": "environment", **values} if values.get("environment") else values

    @model_validator(mode="after")
    def _one_source(self) -> "TaskFile":
        if isinstance(self.splits, Files) and self.rows is not None:
            raise ValueError("give either rows, or splits with a file each, not both")
        if isinstance(self.splits, Fractions) and self.rows is None:
            raise ValueError(
                'give rows = "FILE", or splits = { train = "FILE", validation = "FILE", test = "FILE" }'
            )
        return self


@dataclass(frozen=True, slots=True)
class Task:
    """
    Examples in three splits, each sorted by id, and what grades them.

    `system` is fixed text: the first message of every example, where it is set. `fingerprint` is a sha256
    over examples, prompt, system, reward, tools and environment, equal on every machine. `path` is the task file,
    None for a task made in Python. `settings` are the file's [improve] table, as it stands there; `graph` and
    `weights` are what its tables of these names say beside that to --by graph and --by weights. With a `world`
    each row is an episode in it.
    """

    name: str
    train: tuple[Example, ...] = field(repr=False)
    validation: tuple[Example, ...] = field(repr=False)
    test: tuple[Example, ...] = field(repr=False)
    system: str
    prompt: str
    reward: Reward
    tools: tuple[FunctionTool, ...]
    fingerprint: str
    path: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    graph: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    world: World | None = None

    @classmethod
    def read(cls, path: str | Path) -> "Task":
        """The task of a task file, or of the `task.toml` in a folder; its paths count from that folder."""
        path = Path(path).expanduser()
        path = path / "task.toml" if path.is_dir() else path
        content = _read_tables(path)
        name = path.parent.resolve().name if path.name == "task.toml" else path.stem
        spec = _checked(TaskFile, {"name": name, **content["task"]}, f"{path}, [task]")
        base = path.parent
        if isinstance(spec.splits, Files):
            sources = {split: getattr(spec.splits, split) for split in SPLITS}
            parts = {split: _placed(spec, read_rows(s, base), s) for split, s in sources.items() if s}
        else:
            source = str(spec.rows)
            parts = split_rows(_placed(spec, read_rows(source, base), source), spec.splits)
        reward, tools = resolve_reward(spec.reward, base), load_tools(spec.tools, base)
        world = resolve_world(spec.environment, base) if spec.environment else None
        return replace(
            _task(spec, parts, reward, tools, world),
            path=path,
            settings=content.get("improve", {}),
            graph=content.get("graph", {}),
            weights=content.get("weights", {}),
        )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Row] | Mapping[Split, Iterable[Row]],
        *,
        prompt: str = "",
        target: str | None = "target",
        reward: str | Mapping[str, Any] | Sequence[Any] | Callable[..., Any] | None = None,
        system: str = "",
        id: str | None = None,
        messages: str | None = None,
        splits: Mapping[str, float] | None = None,
        fields: Mapping[str, str] | None = None,
        tools: Sequence[str | Callable[..., Any]] = (),
        environment: WorldSpec | None = None,
        name: str = "task",
    ) -> "Task":
        """
        A task from a list of dicts, or from a dict of such lists for train, validation and test.

        The keywords are those of the task file; `reward`, `tools` and `environment` may also be functions. The reward
        is "exact", or what the environment gives, unless another one is named. A list is split by `splits`, fractions
        and a seed (0.4, 0.3, 0.3 and 0 where it is left out).
        """
        world = resolve_world(environment, Path.cwd()) if environment else None
        given = {
            "prompt": prompt, "target": target or "", "system": system, "id": id, "messages": messages,
            "fields": fields, "name": name, "splits": splits, "environment": world and world.name,
        }  # fmt: skip
        spec = _checked(TaskSpec, {key: value for key, value in given.items() if value is not None}, "from_rows")
        if isinstance(spec.splits, Files):
            raise TaskError("splits of from_rows are fractions; for rows in three files, write a task file")
        if isinstance(rows, Mapping):
            lists = check_row_lists(rows, splits)
            parts = {split: _placed(spec, part, f"rows[{split!r}]") for split, part in lists.items()}
        else:
            parts = split_rows(_placed(spec, list(rows), "rows"), spec.splits)
        graded = resolve_reward(reward or ("environment" if world else "exact"), Path.cwd())
        return _task(spec, parts, graded, load_tools(tools, Path.cwd()), world)


def describe(task: Task) -> str:
    """A few lines for people: rows per split, the reward and its style, and an example prompt."""
    sizes = ", ".join(f"{len(getattr(task, split))} {split}" for split in SPLITS)
    first = (task.train or task.test)[0]
    asked = "\n".join(f"  {m.role}: {m.content}" for m in first.messages)
    lines = [
        f"{task.name}: {sizes} rows",
        f"reward: {task.reward.name} ({task.reward.style})",
        *([f"environment: {task.world.name}"] if task.world else []),
        *([f"tools: {', '.join(function.tool.name for function in task.tools)}"] if task.tools else []),
        *_sandbox(task),
        f"example {first.id}, right answer {first.target!r}:",
        asked,
    ]
    return "\n".join(lines)


def _sandbox(task: Task) -> list[str]:
    """What confines Python that a model wrote, where the task runs any."""
    if "python" not in (*task.reward.name.split(" + "), *(function.tool.name for function in task.tools)):
        return []
    from edgewise.toolkit.tools.python_tool import detect_protection

    return [f"python that the model wrote is confined by: {', '.join(detect_protection())}"]


def _read_tables(path: Path) -> dict[str, Any]:
    check_file(path)
    if path.suffix != ".toml":
        raise TaskError(f"{path} is no task file; write a task.toml with a [task] table that names the rows")
    try:
        with as_task_error(path):
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise TaskError(f"{path} is not TOML: {error}") from error
    for name, table in content.items():
        if name not in TABLES or not isinstance(table, dict):
            raise TaskError(
                f"{path} may hold the tables [task], [improve], [graph] and [weights], but no {name!r}"
            )
    if "task" not in content:
        raise TaskError(f"{path} has no [task] table")
    return content


S = TypeVar("S", bound=TaskSpec)


def _checked(model: type[S], values: Mapping[str, Any], place: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise TaskError(f"{place}: {_sentence(model, error)}") from error


def _sentence(model: type[TaskSpec], error: ValidationError) -> str:
    """The first of pydantic's complaints, in the words of the task file."""
    found = error.errors(include_url=False)
    # A misspelt key also shows as a missing one; the misspelling is what helps.
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    where = [str(part) for part in first["loc"] if part not in ("fractions", "files")]
    if first["type"] == "extra_forbidden":
        keys = list(model.model_fields) if len(where) == 1 else [*SPLITS, "seed"]
        return f"there is no key {'.'.join(where)!r}{did_you_mean(where[-1], keys)}"
    text = first["msg"].removeprefix("Value error, ")
    return ": ".join([*filter(None, [".".join(where)]), text[0].lower() + text[1:]])


def _task(spec: TaskSpec, parts: Parts, reward: Reward, tools: tuple[FunctionTool, ...], world: World | None) -> Task:
    _check_world(world, reward, tools)
    _check_apart(parts, whole=world is not None)
    _check_ids([one for part in parts.values() for one in part])
    train, validation, test = (tuple(one.example for one in parts.get(name, ())) for name in SPLITS)
    content = [
        [[asdict(e) for e in part] for part in (train, validation, test)],
        spec.prompt,
        spec.system,
        getattr(spec, "reward", reward.name),
        [function.tool.name for function in tools],
        *([world.spec] if world else []),
    ]
    fingerprint = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return Task(
        spec.name, train, validation, test, spec.system, spec.prompt, reward, tools, fingerprint, world=world
    )


def _check_world(world: World | None, reward: Reward, tools: tuple[FunctionTool, ...]) -> None:
    if world and tools:
        raise TaskError(
            f"a task is played in an environment or has tools, not both: make {tools[0].tool.name!r} an action of "
            f"{world.name}"
        )
    if not world and (reward.name, reward.style) == ("environment", "built-in"):
        raise TaskError(
            'the reward is "environment", but the task has none: give environment = "module:Class"'
        )


def _placed(spec: TaskSpec, rows: list[Row], source: str) -> list[SourcedExample]:
    """The rows as examples, sorted by id, without those that repeat another one in everything but the id."""
    first: dict[str, SourcedExample] = {}
    for one in sorted(to_examples(rows, spec, source), key=lambda one: one.example.id):
        first.setdefault(one.content, one)
    if repeated := len(rows) - len(first):
        warnings.warn(
            f"{source}: {repeated} of {len(rows)} rows repeat another row and are left out", stacklevel=3
        )
    return list(first.values())


def _check_ids(placed: list[SourcedExample]) -> None:
    seen: dict[str, str] = {}
    for one in placed:
        other = seen.setdefault(one.example.id, one.place)
        if other is not one.place:
            raise TaskError(f"{other} and {one.place} have the same id; ids must be unique")


def _check_apart(parts: Parts, *, whole: bool) -> None:
    """No two splits may ask the same: what is tested must not have been learned. `whole` rows differ in any column."""
    seen: dict[Any, tuple[str, str]] = {}
    for name, part in parts.items():
        for one in part:
            asked = one.content if whole else one.example.messages
            split, place = seen.setdefault(asked, (name, one.place))
            if split != name:
                raise TaskError(
                    f"{place} in {split} and {one.place} in {name} ask the same; remove one of them, so that "
                    "the test rows are new to what was learned"
                )
