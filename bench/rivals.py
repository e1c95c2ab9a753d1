"""
Edgewise with its gate on against GEPA 0.1.4 (arXiv 2507.19457): same model, rows, reward, no fewer calls and tokens.

Edgewise is the real command on examples/support_triage with the settings of its task file. GEPA then gets as many
calls and tokens as Edgewise used for learning (rollouts, distiller and gate), and more of one until the other is
reached. How GEPA is set up, and why it is fair:

- It is `gepa.optimize` as its users run it: default adapter and default settings, except for what follows.
- The seed candidate is the task's own instruction. A candidate stands where that instruction stands, before the row
  in one user message, so that GEPA starts from the same prompt as Edgewise. In a system message, the adapter's own
  place, the seed candidate has 0.18 on the validation rows instead of 0.21, and rules help less
  (docs/results/experience.md).
- Training rows are the task's training rows, the valset is all its validation rows, and the reward is the task's.
- The feedback says whether the answer is right, which one is, and that it holds for messages like this one.
- Task calls are drawn as Edgewise measures: temperature 0 and the task's `max_tokens`.
- The same model reflects, with the server's default temperature, as GEPA does where none is given, and up to 512
  tokens a reply.
- Task calls and reflection calls count alike. GEPA stops when it has had at least as many calls and at least as many
  tokens, input and output, as Edgewise. It is asked before an iteration, so the last one may go over, in its favour.
- The best candidate, which is the one that GEPA itself returns, is measured once on the test rows.

The plain loop is Training-Free GRPO as its authors have it (arXiv 2510.08191), by the same command: no gate, whole
library in every prompt and after the problem, no refill, every group compared by itself. Answers of a word stand for
their own summaries, and the library never comes near its caps. Four epochs, the fewest with as many calls and tokens.

The minutes of Edgewise include its own measurement before and after, those of GEPA do not. `--calls N` runs GEPA alone
with that many calls, `--seed N` another draw of it, `--runs DIR` keeps the runs of Edgewise, or takes them up.
`--quick` uses the small model, few rows and few calls, and only shows that the road is open.
Needs `pip install gepa==0.1.4`.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common import ROOT, report

from edgewise.experience.config import ExperienceConfig
from edgewise.toolkit.budget.ledger import Ledger, UsageTotals
from edgewise.toolkit.evaluation.statistics import Interval, example_means, paired_difference
from edgewise.toolkit.model.client import Client
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.rollout.agent import Agent, run_group
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import BilledTo, Example, Message, Plan, Reply, Request, Rollout, Sampling, Step, T
from edgewise.toolkit.util.seeds import derive_seed

EXAMPLE = ROOT / "examples" / "support_triage"
SMALL = "local/smollm2-135m"
SHORT = ["--model", SMALL, "--set", "epochs=1", "--set", "gate_rows=8", "--set", "group_size=2"]
PAPER = {
    "gate": "off",
    "pool": "false",
    "learn_from": "mixed",
    "inclusion": "1.0",
    "refill": "false",
    "rest": "false",
    "guards": "false",
    "leave_one_out": "0",
    "place": "after",
    "labelled": "true",
    "epochs": "4",
    "distiller_max_tokens": "512",
}
PLAIN = [word for key, value in PAPER.items() for word in ("--set", f"{key}={value}")]
SHORT_ROWS, SHORT_CALLS = 4, 20
GEPA = "0.1.4"
REFLECTION_TOKENS = 512
BAR = "Edgewise's gain above 0 with its whole 95 % interval, and no smaller than GEPA's at no fewer calls and tokens"

Rewards = dict[str, tuple[float, ...]]
"""Rewards of the samples of each test row, by id."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What both sides share; `ledger` counts the calls made through `client`, by role."""

    task: Task
    config: ExperienceConfig
    client: Client
    ledger: Ledger
    runner: asyncio.Runner

    def run(self, plan: Plan[T]) -> T:
        """Drive a plan from code that is not async, such as GEPA's."""
        return self.runner.run(drive(plan, self.client))

    def book(self, *roles: str) -> UsageTotals:
        """What was booked on these roles."""
        return sum((self.ledger.tabulate("role").get((role,), UsageTotals()) for role in roles), UsageTotals())


@dataclass(frozen=True, slots=True)
class Found:
    """What a side ended with; `tokens` are those of its calls, input and output."""

    rewards: Rewards
    calls: int
    tokens: int
    minutes: float


def main() -> int:
    options = _options()
    _check_gepa()
    task = Task.read(EXAMPLE)
    config = resolve_config(ExperienceConfig, task.settings, {"model": SMALL} if options.quick else {})
    edgewise = plain = None
    if not options.calls:
        short = SHORT if options.quick else []
        with tempfile.TemporaryDirectory() as folder:
            runs = options.runs or Path(folder)
            edgewise = improve(runs / "edgewise", short)
            plain = improve(runs / "plain", [*PLAIN, *short])
    if options.quick:
        task = replace(task, validation=task.validation[:SHORT_ROWS], test=task.test[:SHORT_ROWS])
    calls = SHORT_CALLS if options.quick else options.calls or (edgewise.calls if edgewise else 0)
    tokens = edgewise.tokens if edgewise and not options.quick else 0
    ledger = Ledger()
    client = stack_middleware(Router(), None, ledger, concurrency=config.concurrency, timeout=config.timeout)
    with asyncio.Runner() as runner:
        bench = Bench(task, config, client, ledger, runner)
        try:
            before = measured(bench, lambda messages: messages)
            gepa = optimised(bench, calls, tokens, options.seed)
        finally:
            runner.run(client.aclose())
    figures = _side("gepa", before, gepa) | {"model": "small" if options.quick else "default"}
    if edgewise is None or plain is None:
        return report("rivals", figures, "none: GEPA alone", True)
    figures = _side("edgewise", before, edgewise) | _side("plain", before, plain) | figures
    figures["edgewise_minus_gepa"] = _interval(_difference(gepa.rewards, edgewise.rewards))
    gain = _difference(before, edgewise.rewards)
    holds = gain.low > 0 and gain.estimate >= _difference(before, gepa.rewards).estimate
    return report("rivals", figures, BAR, options.quick or holds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the small model, few calls")
    parser.add_argument("--calls", type=int, default=0, help="GEPA alone, with so many calls")
    parser.add_argument("--seed", type=int, default=0, help="of GEPA")
    parser.add_argument("--runs", type=Path, help="directory for the runs of Edgewise; finished ones are reused")
    return parser.parse_args()


def _check_gepa() -> None:
    try:
        found = version("gepa")
    except PackageNotFoundError:
        found = "none"
    if found != GEPA:
        sys.exit(f"bench/rivals.py needs GEPA {GEPA}, and there is {found}: pip install gepa=={GEPA}")


# ---- Edgewise --------------------------------------------------------------------------------------


def improve(run: Path, options: Sequence[str]) -> Found:
    """The real command; its rewards are those of the evidence, measured whether or not the change was kept."""
    command = [sys.executable, "-c", "from edgewise.toolkit.cli.app import main; main()", "improve", str(EXAMPLE)]
    done = subprocess.run(
        [*command, "--json", "--run", str(run), *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    # 1 says that nothing was found, which is a result.
    if done.returncode not in (0, 1):
        sys.exit(f"edgewise improve ended with {done.returncode}; what it said stands above")
    result = json.loads(done.stdout)
    last = result["evidence"]["results"][-1]["name"]
    rows = [row for row in result["evidence"]["rows"] if row["arm"] == last]
    rewards = {row["example"]: tuple(row["rewards"]) for row in rows}
    book = result["costs"]["learning"]
    return Found(rewards, book["calls"], book["input"] + book["output"], result["seconds"] / 60)


# ---- GEPA ------------------------------------------------------------------------------------------


def optimised(bench: Bench, calls: int, tokens: int, seed: int) -> Found:
    """Run GEPA until tasks and reflection together reach `calls` and `tokens`, then measure its best candidate."""
    from gepa import optimize

    task, roles = bench.task, ("gepa task", "gepa reflection")
    instruction = task.prompt.rpartition("\n\n")[0]
    started = time.monotonic()

    def spent(state: object) -> bool:
        book = bench.book(*roles)
        return book.calls >= calls and book.input + book.output >= tokens

    result = optimize(
        seed_candidate={"instruction": instruction},
        trainset=[_instance(row, instruction) for row in task.train],
        valset=[_instance(row, instruction) for row in task.validation],
        task_lm=_task_model(bench),
        evaluator=_evaluator(bench),
        reflection_lm=_reflection_model(bench, seed),
        stop_callbacks=spent,
        seed=seed,
    )
    minutes = (time.monotonic() - started) / 60
    best = result.best_candidate["instruction"]
    scores = [round(score, 3) for score in result.val_aggregate_scores]
    print(f"GEPA, seed {seed}: {[bench.book(role).calls for role in roles]} task and reflection calls")
    print(f"candidates on validation rows: {scores}; the best one:\n{best}\n")

    def dress(messages: Sequence[Message]) -> tuple[Message, ...]:
        return _joined(best, _after(messages[-1].content, instruction))

    book = bench.book(*roles)
    return Found(measured(bench, dress), book.calls, book.input + book.output, minutes)


def _instance(row: Example, instruction: str) -> dict[str, Any]:
    """A row as GEPA's default adapter wants it."""
    text = _after(row.messages[-1].content, instruction)
    return {"input": text, "answer": str(row.target), "additional_context": {"row": row.id}}


def _after(content: str, instruction: str) -> str:
    return content.removeprefix(instruction).strip()


def _joined(instruction: str, text: str) -> tuple[Message, ...]:
    return (Message("user", f"{instruction}\n\n{text}"),)


def _task_model(bench: Bench) -> Callable[[Sequence[Mapping[str, str]]], str]:
    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        asked = _joined(*(message["content"] for message in messages))
        request = Request(bench.config.model, asked, bench.config.eval_sampling, payer=BilledTo("gepa task"))
        return bench.run(_text(request))

    return answer


def _reflection_model(bench: Bench, seed: int) -> Callable[[Any], str]:
    role = "gepa reflection"

    def reflect(prompt: Any) -> str:
        # A server's own seed is the clock; with these a run can be repeated.
        sampling = Sampling(max_tokens=REFLECTION_TOKENS, seed=derive_seed(seed, role, bench.book(role).calls))
        request = Request(bench.config.model, (Message("user", prompt),), sampling, payer=BilledTo(role))
        return bench.run(_text(request))

    return reflect


def _text(request: Request) -> Plan[str]:
    """What the model said; nothing where it broke."""
    reply: Reply = yield request
    return reply.message.content


def _evaluator(bench: Bench) -> Callable[[Mapping[str, Any], str], Any]:
    from gepa.adapters.default_adapter.default_adapter import EvaluationResult

    rows = {row.id: row for row in (*bench.task.train, *bench.task.validation)}

    def evaluate(data: Mapping[str, Any], response: str) -> EvaluationResult:
        row = rows[data["additional_context"]["row"]]
        said = Step(row.messages, Message("assistant", response))
        score = bench.run(bench.task.reward.grade(row, Rollout(row.id, "solver", 0, (said,), "stop"), ""))
        verdict = "right" if score.value >= 1 else "wrong"
        right = f"The right answer is {row.target}: messages like this one go to {row.target}."
        return EvaluationResult(score.value, f"This answer is {verdict}. {right}")

    return evaluate


# ---- both ------------------------------------------------------------------------------------------


def measured(bench: Bench, dress: Callable[[tuple[Message, ...]], tuple[Message, ...]]) -> Rewards:
    """Rewards on the test rows, with the settings and seeds of Edgewise's own measurement."""
    user = Agent(bench.config.model, bench.config.eval_sampling, payer="measure")

    def every() -> Plan[Any]:
        return (
            yield [
                run_group(
                    user,
                    row,
                    dress(row.messages),
                    bench.task.reward,
                    judge="",
                    size=bench.config.samples,
                    seed=derive_seed(bench.config.seed, 0),
                )
                for row in bench.task.test
            ]
        )

    found = bench.run(every())
    return {each.example.id: tuple(run.score.value for run in each.rollouts) for each in found}


def _side(name: str, before: Rewards, found: Found) -> dict[str, Any]:
    return {
        "rows": len(before),
        "before": _mean(before, before),
        name: _mean(before, found.rewards),
        f"{name}_gain": _interval(_difference(before, found.rewards)),
        f"{name}_calls": found.calls,
        f"{name}_tokens": found.tokens,
        f"{name}_minutes": round(found.minutes, 1),
    }


def _mean(rows: Rewards, rewards: Rewards) -> float:
    return round(float(example_means([rewards[row] for row in rows]).mean()), 3)


def _difference(first: Rewards, second: Rewards) -> Interval:
    """The second minus the first, on the rows of the first."""
    return paired_difference(list(first.values()), [second[row] for row in first])


def _interval(found: Interval) -> list[float]:
    return [round(number, 3) for number in (found.estimate, found.low, found.high)]


if __name__ == "__main__":
    sys.exit(main())
