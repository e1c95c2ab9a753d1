"""The steps of a run on lessons, as the files steps/NNN/step.json hold them."""

from pydantic import BaseModel

from edgewise.toolkit.report.run_files import StepStatistics


class StoredEffect(BaseModel, frozen=True):
    """The measured effect of a lesson; see `experience.library.library.Effect`."""

    estimate: float
    low: float
    high: float
    uses: int


class StoredLesson(BaseModel, frozen=True):
    """The part of a lesson that reports and logs need."""

    text: str
    kind: str
    born: int
    sources: list[str]
    effect: StoredEffect | None = None


class StoredRemoval(BaseModel, frozen=True):
    """A lesson that measurably did harm; `kept` where it stayed because it is locked."""

    lesson: StoredLesson
    reason: str
    kept: bool = False


class StoredOperation(BaseModel, frozen=True):
    """An operation on the library and its outcome."""

    action: str
    id: str | None = None
    text: str | None = None
    applied: bool
    reason: str = ""


class StoredGate(BaseModel, frozen=True):
    """The gate's decision: the best candidate against the current library on `rows` validation rows."""

    winner: str
    difference: float
    rows: int
    p: float = 1.0
    level: float = 0.0
    worse: list[str] = []
    means: dict[str, float]


class StoredGroup(BaseModel, frozen=True):
    """A group of a step; `skipped` is the reason why no lesson was drawn from it."""

    skipped: str = ""


class StoredStep(BaseModel, frozen=True):
    """A step.json. Runs on graphs have some of its fields, and `went` is of runs on weights."""

    step: int
    epoch: int
    incomplete: str = ""
    statistics: StepStatistics
    groups: list[StoredGroup] = []
    operations: list[StoredOperation] = []
    gate: StoredGate | None = None
    dropped: list[StoredRemoval] = []
    went: str = ""
