"""
GEPA (arXiv 2507.19457, PyPI `gepa`) as a proposer: it searches for better lesson text on a step's training rows.

`gepa.optimize` runs in a thread; its rollouts and reflections are plans like all others (see `toolkit.run.sync_bridge`). What it
writes is one text, which is split into lessons, guarded and capped before it is measured: it optimises what is used.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.experience.distil import distiller
from edgewise.experience.formats import library_files
from edgewise.experience.library import operations
from edgewise.experience.library.library import Library
from edgewise.experience.prompting import retriever
from edgewise.experience.proposers import candidates
from edgewise.experience.proposers.candidates import Candidates
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.errors import LibraryError
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.rollout import agent
from edgewise.toolkit.rollout.agent import Prompt
from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.run.sync_bridge import Ask, bridge_to_plan
from edgewise.toolkit.tracking.events import GroupsFinished
from edgewise.toolkit.types import BilledTo, Example, Group, Message, Plan, Reply, Request, Rollout
from edgewise.toolkit.util.seeds import derive_seed

MAX_CANDIDATES = 4
"""The most candidates of a step."""
MINIBATCH = 3
"""Rows that GEPA reflects on at once."""
COMPONENT = "lessons"
SEED_TEXT = "- Read the whole task before you answer, and answer exactly what it asks for."
"""What GEPA starts from where there are no lessons: it needs a text."""
REFLECT = """\
Before every task, an assistant is shown these lessons:
```
<curr_param>
```

With them it worked on the tasks below. Each is given with its answer and what was said of it:
```
<side_info>
```

Write a better list of lessons. Find out what these tasks have in common and what went wrong: keep what is right, mend \
or drop what misleads, add the facts and rules that were missing. The lessons must help with other tasks of this \
kind, so they speak of kinds of inputs, never of a single one.

One lesson a line, beginning with "- ", of at most {words} words, to be understood without the others. Put the whole \
list between two lines of ```."""


def max_calls(rows: int, group_size: int) -> tuple[int, int]:
    """
    The most rollouts and reflections of a search on so many rows.

    GEPA looks at its limit before an iteration, so the last one may go over: by a minibatch twice and its valset.
    """
    limit, valset = rows * group_size, max(rows // 2, 1)
    return limit - 1 + 2 * MINIBATCH + valset, math.ceil((limit - valset) / (2 * MINIBATCH))


def min_calls(rows: int) -> int:
    """Calls until GEPA can have one candidate: its valset before and after, a minibatch twice, a reflection."""
    return 2 * max(rows // 2, 1) + 2 * MINIBATCH + 1


def search(
    job: ExperienceSpec, library: Library, rows: Sequence[Example], step: int
) -> Plan[tuple[list[Group], Candidates]]:
    """
    What GEPA ran on these rows, and the best candidates it found there.

    Its trainset and its valset are two halves of `rows`; it gets `group_size` metric calls a row. Candidates are
    those that beat its start on its valset, the best first, `MOST` at most. Locked lessons stay in each.
    """
    return (yield from bridge_to_plan(lambda ask: _optimised(_Search(job, library, step, ask), rows)))


def _optimised(search: "_Search", rows: Sequence[Example]) -> tuple[list[Group], Candidates]:
    from gepa.api import optimize

    job, library = search.job, search.library
    free = "\n".join(f"- {x.text}" for x in library.lessons if not x.locked)
    found = optimize(
        seed_candidate={COMPONENT: free or SEED_TEXT},
        trainset=list(rows[::2]),
        valset=list(rows[1::2] or rows),
        adapter=search,
        reflection_lm=search.reflect,
        reflection_minibatch_size=MINIBATCH,
        reflection_prompt_template=REFLECT.format(words=job.config.words),
        max_metric_calls=len(rows) * job.config.group_size,
        logger=search,
        seed=derive_seed(job.config.seed, "gepa", search.step),
    )
    best = [search.made(found.candidates[i][COMPONENT]) for i in _best(found.val_aggregate_scores)]
    ran = [row for row in rows if row.id in search.runs]
    groups = [Group(row, job.rollout_agent.role, tuple(search.runs[row.id])) for row in ran]
    return groups, _candidates(library, best)


def _best(scores: Sequence[float]) -> list[int]:
    """The candidates that beat the first one, which GEPA started from; the best first, of equals the older."""
    return sorted((i for i, score in enumerate(scores) if score > scores[0]), key=lambda i: (-scores[i], i))


def _candidates(library: Library, found: Sequence["_Made"]) -> Candidates:
    """The first `MOST` of them that differ from each other and from the library; the outcomes are the first one's."""
    different: dict[str, _Made] = {}
    for made in found:
        different.setdefault(made.library.version, made)
    different.pop(library.version, None)
    new = list(different.values())[:MAX_CANDIDATES]
    libraries = {f"gepa {number}": made.library for number, made in enumerate(new, 1)}
    return Candidates(libraries, new[0].outcomes if new else ())


@dataclass(frozen=True, slots=True)
class _Made:
    """The library that a text makes, what became of its lessons, and the runs that it was written from."""

    library: Library
    outcomes: tuple[operations.OperationOutcome, ...]
    runs: tuple[Rollout, ...]


@dataclass(slots=True)
class _Search:
    """
    One search: GEPA's adapter to our rollouts and to the distiller, both of which are asked for as plans, and its log.

    `runs` are all rollouts so far by row; `shown` those that were last reflected on, with those of the parents.
    """

    job: ExperienceSpec
    library: Library
    step: int
    ask: Ask
    runs: dict[str, list[Rollout]] = field(default_factory=dict)
    shown: tuple[Rollout, ...] = ()
    tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    reflections: int = 0
    texts: dict[str, _Made] = field(default_factory=dict)
    propose_new_texts: Any = None

    def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Run the rows under the library that a candidate makes; a row that comes again is a new draw."""
        from gepa.core.adapter import EvaluationBatch

        library = self.made(candidate[COMPONENT]).library
        draws = [(row, self._draw(library, row)) for row in batch]
        found: list[Rollout] = self.ask(_run(self.job, library, draws, self.step))
        for run in found:
            self.runs.setdefault(run.example, []).append(run)
        truth = self.job.config.truth
        shown = [_shown(row, run, truth) for row, run in zip(batch, found, strict=True)]
        return EvaluationBatch(found, [valid_reward(run) or 0.0 for run in found], shown)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What the distiller sees of a minibatch. GEPA evaluates what it then writes before it reflects again."""
        self.shown = (*self.texts[candidate[COMPONENT]].runs, *eval_batch.outputs)
        return {COMPONENT: eval_batch.trajectories}

    def reflect(self, prompt: Any) -> str:
        """The distiller's reply; "" where it broke, which is then a text without lessons."""
        model = self.job.distiller
        messages, sample = (Message("user", prompt),), self.reflections
        self.reflections += 1
        request = Request(model.model, messages, model.sampling, sample=sample, payer=BilledTo("distiller"))
        reply: Reply = self.ask(plan_request(request))
        return reply.message.content

    def made(self, text: str) -> _Made:
        """The library of a text, made once: what is measured is what becomes a candidate."""
        if text not in self.texts:
            found = _rewritten(self.job, self.library, text, self.shown, self.step)
            self.texts[text] = _Made(*found, self.shown)
        return self.texts[text]

    def log(self, message: str) -> None:
        """GEPA's own log, which would be printed."""

    def _draw(self, library: Library, row: Example) -> int:
        self.tries[library.version, row.id] += 1
        return self.tries[library.version, row.id] - 1


def _rewritten(
    job: ExperienceSpec, library: Library, text: str, runs: Sequence[Rollout], step: int
) -> tuple[Library, tuple[operations.OperationOutcome, ...]]:
    """The library with a text in place of its lessons; a lesson with the same wording stays, and so do locked ones."""
    texts = _lessons(text, job.config.words)
    known = {x.text for x in library.lessons}
    sources, rollouts = tuple(run.example for run in runs), tuple(run.id for run in runs)
    gone = [x for x in library.lessons if not (x.locked or x.text in texts)]
    deletions = [operations.Operation(action="delete", id=x.id, text=x.text) for x in gone]
    new = [x for x in texts if x not in known]
    additions = [operations.Operation(action="add", text=x, sources=sources, rollouts=rollouts) for x in new]
    return candidates.apply_within_caps(job, library, (*deletions, *additions), step)


def _lessons(text: str, words: int) -> list[str]:
    """A text as lessons, as at import; none where it can't be read."""
    try:
        return [x.text for x in library_files.read(text, words).library.lessons]
    except LibraryError:
        return []


def _run(
    job: ExperienceSpec, library: Library, draws: Sequence[tuple[Example, int]], step: int
) -> Plan[list[Rollout]]:
    """A graded rollout for each row and sample index, as a run while learning, under the whole library."""
    yield from retriever.prefetch_embeddings(library, job.retrieval)
    found = yield [_attempt(job, library, row, sample, step) for row, sample in draws]
    yield GroupsFinished([Group(row, run.role, (run,)) for (row, _), run in zip(draws, found, strict=True)])
    return found


def _attempt(job: ExperienceSpec, library: Library, row: Example, sample: int, step: int) -> Plan[Rollout]:
    shown = yield from retriever.select_lessons(library, row.messages, job.retrieval)
    prompt = Prompt(shown.insert_lessons(row.messages), library.version)
    seed = derive_seed(job.config.seed, step)
    (run,) = yield from agent.run_rollouts(
        job.rollout_agent, row, [prompt], job.task.reward, judge=job.judge, seed=seed, start=sample
    )
    return run


def _shown(row: Example, run: Rollout, truth: bool) -> dict[str, str]:
    """One example for the distiller. Feedback often names the right answer, so without `truth` there is none."""
    said = [f"The run broke: {run.error or run.stop}"] if run.failed else []
    if truth and run.score and not run.failed:
        said += [f"Reward {run.score.value:g}.", run.score.feedback]
    if truth and row.target is not None:
        said.append(f"The reference answer is: {row.target}")
    return {
        "Task": "\n".join(message.content for message in row.messages),
        "Answer": distiller.render_trajectory(run) if run.steps else "(none)",
        "Feedback": "\n".join(filter(None, said)) or "(none)",
    }
