"""
A task: rows, the prompt that they fill in, and the reward that grades an answer.

`Task.read` takes a task file, `Task.from_rows` rows and a function. Both check everything that can be checked without a
model, and raise a `TaskError` of one sentence. Rows become examples in `toolkit.task.examples`.
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
from edgewise.toolkit.task.readers import Row, as_task_error, check_file, read_rows
from edgewise.toolkit.task.splits import SPLITS, Files, Fractions, Parts, Split, Splits, check_row_lists, split_rows
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import Example
from edgewise.toolkit.util.import_by_name import did_you_mean

TABLES = ("task", "improve", "graph", "weights")


class TaskSpec(Layout, frozen=True):
    """The settings that a task file and `Task.from_rows` have in common, under the same names."""

    name: str = "task"
    splits: Splits = Fractions(train=0.4, validation=0.3, test=0.3)


class TaskFile(TaskSpec, frozen=True):
    """The [task] table of a task file. `rows` is left out where `splits` names a file per split."""

    rows: str | None = None
    reward: str | dict[str, Any] | list[str | dict[str, Any]] = "exact"
    tools: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def default_reward(cls, values: Any) -> Any:
        """Take the environment's own reward as the default of a task with one."""
        return {"reward": "environment", **values} if values.get("environment") else values

    @model_validator(mode="after")
    def check_source(self) -> "TaskFile":
        """Raise ValueError unless there is one source of rows."""
        if isinstance(self.splits, Files) and self.rows is not None:
            raise ValueError("give either rows, or splits with a file each, not both")
        if isinstance(self.splits, Fractions) and self.rows is None:
            raise ValueError('give rows = "FILE", or splits = { train = "FILE", validation = "FILE", test = "FILE" }')
        return self


S = TypeVar("S", bound=TaskSpec)


@dataclass(frozen=True, slots=True)
class Task:
    """Examples in three splits, each sorted by id, and the reward that grades them."""

    name: str
    train: tuple[Example, ...] = field(repr=False)
    validation: tuple[Example, ...] = field(repr=False)
    test: tuple[Example, ...] = field(repr=False)
    system: str  # the first message of every example, "" for none
    prompt: str
    reward: Reward
    tools: tuple[FunctionTool, ...]
    # sha256 over examples, prompt, system, reward, tools and environment, equal on every machine
    fingerprint: str
    path: Path | None = None  # the task file, None for a task made in Python
    # The file's tables [improve], [graph] and [weights]: settings for all ways, for graphs and for weights.
    settings: Mapping[str, Any] = field(default_factory=dict)
    graph: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    world: World | None = None  # with one, each row is an episode in it

    @classmethod
    def read(cls, path: str | Path) -> "Task":
        """Read a task file, or the `task.toml` in a folder; its paths are relative to that folder."""
        path = Path(path).expanduser()
        path = path / "task.toml" if path.is_dir() else path
        tables = _read_tables(path)
        name = path.parent.resolve().name if path.name == "task.toml" else path.stem
        spec = _validate(TaskFile, {"name": name, **tables["task"]}, f"{path}, [task]")

        # Rows: a file per split, or one file that is split.
        base = path.parent
        if isinstance(spec.splits, Files):
            sources = {split: getattr(spec.splits, split) for split in SPLITS}
            parts = {split: _load_examples(spec, read_rows(s, base), s) for split, s in sources.items() if s}
        else:
            source = str(spec.rows)
            parts = split_rows(_load_examples(spec, read_rows(source, base), source), spec.splits)

        reward, tools = resolve_reward(spec.reward, base), load_tools(spec.tools, base)
        world = resolve_world(spec.environment, base) if spec.environment else None
        return replace(
            _make_task(spec, parts, reward, tools, world),
            path=path,
            settings=tables.get("improve", {}),
            graph=tables.get("graph", {}),
            weights=tables.get("weights", {}),
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
        Make a task from a list of dicts, or from a dict of such lists for train, validation and test.

        The keywords are those of the task file; `reward`, `tools` and `environment` may also be functions. The reward
        is "exact", or the environment's own, unless another one is named. A list is split by `splits`, fractions and a
        seed (0.4, 0.3, 0.3 and 0 where it is left out).
        """
        # None means "not given": the model's default applies.
        world = resolve_world(environment, Path.cwd()) if environment else None
        values = {
            "prompt": prompt, "target": target or "", "system": system, "id": id, "messages": messages,
            "fields": fields, "name": name, "splits": splits, "environment": world and world.name,
        }  # fmt: skip
        values = {key: value for key, value in values.items() if value is not None}
        spec = _validate(TaskSpec, values, "from_rows")
        if isinstance(spec.splits, Files):
            raise TaskError("splits of from_rows are fractions; for rows in three files, write a task file")

        if isinstance(rows, Mapping):
            lists = check_row_lists(rows, splits)
            parts = {split: _load_examples(spec, part, f"rows[{split!r}]") for split, part in lists.items()}
        else:
            parts = split_rows(_load_examples(spec, list(rows), "rows"), spec.splits)
        resolved = resolve_reward(reward or ("environment" if world else "exact"), Path.cwd())
        return _make_task(spec, parts, resolved, load_tools(tools, Path.cwd()), world)


def describe(task: Task) -> str:
    """Return a few lines for people: rows per split, the reward and its style, and an example prompt."""
    sizes = ", ".join(f"{len(getattr(task, split))} {split}" for split in SPLITS)
    tools = [function.tool.name for function in task.tools]
    lines = [f"{task.name}: {sizes} rows", f"reward: {task.reward.name} ({task.reward.style})"]
    if task.world:
        lines.append(f"environment: {task.world.name}")
    if tools:
        lines.append(f"tools: {', '.join(tools)}")
    # Python that the model wrote runs for the reward "python", alone or in a sum, and for the tool.
    if "python" in (*task.reward.name.split(" + "), *tools):
        from edgewise.toolkit.tools.python_tool import detect_protection

        lines.append(f"python that the model wrote is confined by: {', '.join(detect_protection())}")
    first = (task.train or task.test)[0]
    lines.append(f"example {first.id}, right answer {first.target!r}:")
    return "\n".join([*lines, *(f"  {message.role}: {message.content}" for message in first.messages)])


def _read_tables(path: Path) -> dict[str, Any]:
    """Return the tables of a task file. Raises TaskError for another file, other tables, or without [task]."""
    check_file(path)
    if path.suffix != ".toml":
        raise TaskError(f"{path} is no task file; write a task.toml with a [task] table that names the rows")
    try:
        with as_task_error(path):
            tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise TaskError(f"{path} is not TOML: {error}") from error
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            raise TaskError(f"{path} may hold the tables [task], [improve], [graph] and [weights], but no {name!r}")
    if "task" not in tables:
        raise TaskError(f"{path} has no [task] table")
    return tables


def _validate(model: type[S], values: Mapping[str, Any], place: str) -> S:
    """Validate settings of a task. Raises TaskError with the first problem, in the words of the task file."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A misspelt key also shows as a missing one; the misspelling is the helpful one.
        first = next((e for e in problems if e["type"] == "extra_forbidden"), problems[0])
        # The tags of `Splits` are no keys of the file.
        keys = [str(part) for part in first["loc"] if part not in ("fractions", "files")]
        if first["type"] == "extra_forbidden":
            existing = list(model.model_fields) if len(keys) == 1 else [*SPLITS, "seed"]
            sentence = f"there is no key {'.'.join(keys)!r}{did_you_mean(keys[-1], existing)}"
        else:
            text = first["msg"].removeprefix("Value error, ")
            sentence = ": ".join([*filter(None, [".".join(keys)]), text[0].lower() + text[1:]])
        raise TaskError(f"{place}: {sentence}") from error


def _load_examples(spec: TaskSpec, rows: list[Row], source: str) -> list[SourcedExample]:
    """Return the rows as examples, sorted by id, without those that repeat another one in everything but the id."""
    # Of repeated rows the one with the smallest id stays, so that the order of the file changes nothing.
    unique: dict[str, SourcedExample] = {}
    for item in sorted(to_examples(rows, spec, source), key=lambda item: item.example.id):
        unique.setdefault(item.content, item)
    if repeated := len(rows) - len(unique):
        warnings.warn(f"{source}: {repeated} of {len(rows)} rows repeat another row and are left out", stacklevel=3)
    return list(unique.values())


def _make_task(
    spec: TaskSpec, parts: Parts, reward: Reward, tools: tuple[FunctionTool, ...], world: World | None
) -> Task:
    # An environment has actions in place of tools, and its own reward only with it.
    if world and tools:
        raise TaskError(
            f"a task is played in an environment or has tools, not both: make {tools[0].tool.name!r} an action of "
            f"{world.name}"
        )
    if not world and (reward.name, reward.style) == ("environment", "built-in"):
        raise TaskError('the reward is "environment", but the task has none: give environment = "module:Class"')
    # Rows of an environment may share one prompt: there, the whole row tells two episodes apart.
    first: dict[Any, tuple[str, str]] = {}
    for name, item in ((name, item) for name, part in parts.items() for item in part):
        key = item.content if world else item.example.messages
        split, place = first.setdefault(key, (name, item.place))
        if split != name:
            raise TaskError(
                f"{place} in {split} and {item.place} in {name} ask the same; remove one of them, so that "
                "the test rows are new to what was learned"
            )

    # Ids name rollouts and provenance across splits, so they are unique over all of them.
    ids: dict[str, str] = {}
    for item in (item for part in parts.values() for item in part):
        other = ids.setdefault(item.example.id, item.place)
        if other is not item.place:
            raise TaskError(f"{other} and {item.place} have the same id; ids must be unique")

    train, validation, test = (tuple(item.example for item in parts.get(name, ())) for name in SPLITS)
    # The name is left out: the same task under another name continues the same runs.
    content = [
        [[asdict(example) for example in part] for part in (train, validation, test)],
        spec.prompt,
        spec.system,
        getattr(spec, "reward", reward.name),
        [function.tool.name for function in tools],
        *([world.spec] if world else []),
    ]
    fingerprint = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return Task(spec.name, train, validation, test, spec.system, spec.prompt, reward, tools, fingerprint, world=world)
