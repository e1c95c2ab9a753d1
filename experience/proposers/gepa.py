"""
GEPA (arXiv 2507.19457, PyPI `gepa`) as a proposer: it searches for better lesson text on a step's training rows.

`gepa.optimize` is a blocking function. It runs in a thread, and its rollouts and reflections are plans like all others
(see `toolkit.run.sync_bridge`), so that they are journalled, budgeted and resumed:

    event loop                         thread
    search() ── bridge_to_plan ──────▶ gepa.optimize(adapter)
       ▲ plan: rollouts of a batch ◀──── adapter.evaluate             candidate text -> library -> rewards
       ▲ plan: one reply           ◀──── adapter.reflect              prompt -> candidate text
       └ groups, candidates        ◀──── result

A candidate of GEPA is one text. It is split into lessons, guarded and capped before it is measured: GEPA optimises the
library that is used afterwards, not the text.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.experience.distil.distiller import render_trajectory
from edgewise.experience.formats import library_files
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation, OperationOutcome
from edgewise.experience.prompting.retriever import prefetch_embeddings, select_lessons
from edgewise.experience.proposers.candidates import Candidates, apply_within_caps
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.errors import LibraryError
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.rollout.agent import Prompt, run_rollouts
from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.run.sync_bridge import Ask, bridge_to_plan
from edgewise.toolkit.tracking.events import GroupsFinished
from edgewise.toolkit.types import Example, Group, Message, Plan, Reply, Rollout
from edgewise.toolkit.util.seeds import derive_seed

MAX_CANDIDATES = 4
"""The most candidates of a step."""
MINIBATCH = 3
"""Rows that GEPA reflects on at once."""
COMPONENT = "lessons"
"""GEPA's name of the text that it optimises."""
SEED_TEXT = "- Read the whole task before you answer, and answer exactly what it asks for."
"""The start of the search where there are no lessons: GEPA needs a text."""
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
    Return the most rollouts and reflections of a search on so many rows.

    GEPA looks at its limit before an iteration, so the last one may go over: by a minibatch twice and its valset.
    """
    limit, valset = rows * group_size, max(rows // 2, 1)
    return limit - 1 + 2 * MINIBATCH + valset, math.ceil((limit - valset) / (2 * MINIBATCH))


def min_calls(rows: int) -> int:
    """Return the calls until GEPA can have a candidate: its valset and a minibatch, twice each, and a reflection."""
    return 2 * max(rows // 2, 1) + 2 * MINIBATCH + 1


def search(
    spec: ExperienceSpec, library: Library, rows: Sequence[Example], step: int
) -> Plan[tuple[list[Group], Candidates]]:
    """
    Search on these rows; return the groups of all rollouts and the best candidates.

    GEPA's trainset and valset are two halves of `rows`; it gets `group_size` metric calls a row. Candidates are
    those that beat its start on its valset, the best first, at most `MAX_CANDIDATES`. Locked lessons stay in each.
    """

    def optimise(ask: Ask) -> tuple[list[Group], Candidates]:
        from gepa.api import optimize

        adapter = _GepaAdapter(spec, library, step, ask)
        free = "\n".join(f"- {lesson.text}" for lesson in library.lessons if not lesson.locked)
        result = optimize(
            seed_candidate={COMPONENT: free or SEED_TEXT},
            # Every second row: the queue may be sorted, such as by VADE.
            trainset=list(rows[::2]),
            valset=list(rows[1::2] or rows),
            adapter=adapter,
            reflection_lm=adapter.reflect,
            reflection_minibatch_size=MINIBATCH,
            reflection_prompt_template=REFLECT.format(words=spec.config.words),
            max_metric_calls=len(rows) * spec.config.group_size,
            logger=adapter,
            seed=derive_seed(spec.config.seed, "gepa", step),
        )

        # Candidates that beat the first one, which GEPA started from; the best first, of equals the older.
        scores = result.val_aggregate_scores
        better = [i for i, score in enumerate(scores) if score > scores[0]]
        texts = [result.candidates[i][COMPONENT] for i in sorted(better, key=lambda i: (-scores[i], i))]

        # Different texts may make the same library, such as after the caps.
        distinct: dict[str, _ParsedCandidate] = {}
        for candidate in map(adapter.parse_candidate, texts):
            distinct.setdefault(candidate.library.version, candidate)
        distinct.pop(library.version, None)
        best = list(distinct.values())[:MAX_CANDIDATES]
        libraries = {f"gepa {number}": candidate.library for number, candidate in enumerate(best, 1)}

        # A row that the search never drew has no group.
        role, rollouts = spec.rollout_agent.role, adapter.rollouts
        groups = [Group(row, role, tuple(rollouts[row.id])) for row in rows if row.id in rollouts]
        return groups, Candidates(libraries, best[0].outcomes if best else ())

    return (yield from bridge_to_plan(optimise))


@dataclass(frozen=True, slots=True)
class _ParsedCandidate:
    """The library that a text makes, the outcomes of its operations, and the rollouts that it was written from."""

    library: Library
    outcomes: tuple[OperationOutcome, ...]
    parents: tuple[Rollout, ...]


@dataclass(slots=True)
class _GepaAdapter:
    """
    GEPA's adapter to rollouts and to the distiller, and its logger. GEPA calls all methods from its one thread.

    `rollouts` are all so far, by row. `reflected` are those that were last reflected on, with those that their
    candidate was written from.
    """

    spec: ExperienceSpec
    library: Library
    step: int
    ask: Ask
    rollouts: dict[str, list[Rollout]] = field(default_factory=dict)
    reflected: tuple[Rollout, ...] = ()
    draws: Counter[tuple[str, str]] = field(default_factory=Counter)
    reflections: int = 0
    parsed: dict[str, _ParsedCandidate] = field(default_factory=dict)
    # Part of GEPA's protocol: None leaves proposing to its own reflection.
    propose_new_texts: Any = None

    def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Run the rows under the library that a candidate makes; return rollouts, rewards and traces."""
        from gepa.core.adapter import EvaluationBatch

        spec, library = self.spec, self.parse_candidate(candidate[COMPONENT]).library
        # A row that comes again under the same library is a new draw, with a sample index and so a seed of its own.
        samples = []
        for row in batch:
            samples.append(self.draws[library.version, row.id])
            self.draws[library.version, row.id] += 1
        seed = derive_seed(spec.config.seed, self.step)

        def sample_group(row: Example, sample: int) -> Plan[Group]:
            lessons = yield from select_lessons(library, row.messages, spec.retrieval)
            prompts = [Prompt(lessons.insert_lessons(row.messages), library.version)]
            agent, settings = spec.rollout_agent, {"judge": spec.judge, "seed": seed, "start": sample}
            rollouts = yield from run_rollouts(agent, row, prompts, spec.task.reward, **settings)
            return Group(row, agent.role, rollouts)

        def sample_batch() -> Plan[list[Group]]:
            yield from prefetch_embeddings(library, spec.retrieval)
            groups = yield [sample_group(row, sample) for row, sample in zip(batch, samples, strict=True)]
            yield GroupsFinished(groups)
            return groups

        # Blocks this thread until the event loop has run the plan.
        rollouts: list[Rollout] = [group.rollouts[0] for group in self.ask(sample_batch())]
        for row, rollout in zip(batch, rollouts, strict=True):
            self.rollouts.setdefault(row.id, []).append(rollout)
        truth = spec.config.truth
        traces = [_render_trace(row, rollout, truth) for row, rollout in zip(batch, rollouts, strict=True)]
        return EvaluationBatch(rollouts, [valid_reward(rollout) or 0.0 for rollout in rollouts], traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return the traces of a minibatch for the distiller."""
        # GEPA parses the text that it then writes before it reflects again, so these are that text's origins.
        self.reflected = (*self.parsed[candidate[COMPONENT]].parents, *eval_batch.outputs)
        return {COMPONENT: eval_batch.trajectories}

    def reflect(self, prompt: Any) -> str:
        """Return the distiller's reply; "" where the call failed, which is then a text without lessons."""
        # Each reflection is a draw of its own, also where GEPA comes back to a prompt.
        request = self.spec.distiller.request("", Message("user", prompt), sample=self.reflections)
        self.reflections += 1
        reply: Reply = self.ask(plan_request(request))
        return reply.message.content

    def parse_candidate(self, text: str) -> _ParsedCandidate:
        """
        Return the library with the lessons of a text in place of its own, once for each text.

        A lesson with the same wording stays, and so do locked ones. A text that can't be read has no lessons.
        """
        # Once: what is measured must be what becomes a candidate, though `reflected` has changed since.
        if text in self.parsed:
            return self.parsed[text]
        try:
            texts = [x.text for x in library_files.read(text, self.spec.config.words).library.lessons]
        except LibraryError:
            texts = []

        sources = tuple(rollout.example for rollout in self.reflected)
        rollouts = tuple(rollout.id for rollout in self.reflected)
        operations = []
        for lesson in self.library.lessons:
            if not (lesson.locked or lesson.text in texts):
                operations.append(Operation(action="delete", id=lesson.id, text=lesson.text))
        old = {lesson.text for lesson in self.library.lessons}
        for new in texts:
            if new not in old:
                operations.append(Operation(action="add", text=new, sources=sources, rollouts=rollouts))
        outcome = apply_within_caps(self.spec, self.library, operations, self.step)
        self.parsed[text] = _ParsedCandidate(*outcome, self.reflected)
        return self.parsed[text]

    def log(self, message: str) -> None:
        """Discard GEPA's own log, which would be printed."""


def _render_trace(row: Example, rollout: Rollout, truth: bool) -> dict[str, str]:
    """Return one example for the distiller. Feedback often names the right answer: without `truth` there is none."""
    feedback = [f"The run broke: {rollout.error or rollout.stop}"] if rollout.failed else []
    # The score of a failed rollout is no grade.
    if truth and rollout.score and not rollout.failed:
        feedback += [f"Reward {rollout.score.value:g}.", rollout.score.feedback]
    if truth and row.target is not None:
        feedback.append(f"The reference answer is: {row.target}")
    return {
        "Task": "\n".join(message.content for message in row.messages),
        "Answer": render_trajectory(rollout) if rollout.steps else "(none)",
        "Feedback": "\n".join(filter(None, feedback)) or "(none)",
    }
