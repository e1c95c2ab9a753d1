"""
Credit over steps in text worlds: GiGPO and SALT against GRPO, by episodes of the house and of the kitchen.

Learning: a policy that says legal actions at random plays four levels, eight episodes each in a step. Its logits are
a sum of tables: one for what is shown now, one for each past turn in its prompt. All else is the product's own:
environments, episodes, table, credit, update; the reward is 1 where a level is won. Counted are the steps until three
in a row have a mean success of `TARGET`, or `STEPS` where that is never; `won` is how many seeds got there. Differences
are GRPO's steps minus the method's, paired by seed, with a bootstrap interval. The three methods are GiGPO's row of the
table without its penalty, with the credit of each: they differ in nothing else. SALT's window is one turn: with the
usual three it is GRPO for this policy, as its prompts show fewer turns than that (see docs/environments.md).

Recovery: groups of eight episodes by who acts at random. Each step's credit is averaged over all steps of a level with
the same state and action, and ranked against what the world has planted: what the action adds to the state's value, by
value iteration, under that same random play (`acting`) and under the best play (`best`). `single` is the correlation
of single steps with the first, without averaging. `anchors` is what GiGPO adds to the advantage of the episode, alone:
that is its estimate of step values, and what the bar is about. Averages of SALT's are GRPO's: it moves credit within
them.
"""

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import fmean
from typing import Any, ClassVar
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import quick, report
from scipy.stats import bootstrap, spearmanr
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import embedding

from edgewise import Task
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method, override
from edgewise.learner.methods.published import find_method
from edgewise.learner.update import collate
from edgewise.learner.update.gradient_step import UpdateConfig, update
from edgewise.toolkit.environments.house import House
from edgewise.toolkit.environments.kitchen import Kitchen
from edgewise.toolkit.environments.level import Level, LevelEnvironment, compute_action_values, list_states
from edgewise.toolkit.environments.protocol import Turn
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.rollout.agent import Agent, run_group
from edgewise.toolkit.rollout.episode import ILLEGAL_ACTION, render_turn
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Group, Message, Plan, Reply, Request, TokenizedTurn
from edgewise.toolkit.util.seeds import derive_seed

OPTIONS: dict[str, dict[str, Any]] = {"house": {"rooms": 6, "circles": 2}, "kitchen": {"steps": 3, "things": 3}}
WORLDS: dict[str, LevelEnvironment] = {"house": House(**OPTIONS["house"]), "kitchen": Kitchen(**OPTIONS["kitchen"])}
CREDIT = {"grpo": ("credit=broadcast",), "gigpo": ("credit=at_anchors",), "salt": ("credit=merged", "credit.history=1")}
ALONE = {"anchors": ("credit=at_anchors", "advantage=zero")}
LEVELS, SIZE, TURNS, HISTORY, GAMMA = 4, 8, 20, 1, 0.95
STEPS, TARGET, IN_A_ROW, LR = 80, 0.8, 3, 0.03
ILLEGAL = -8.0
GROUPS, SEEDS, ENOUGH = 12, 10, 0.8
BAR = (
    "planted step values recovered with rank correlation >= 0.8 in both worlds (by what anchors add); steps to the "
    "target success printed with intervals"
)


def task(name: str, seed: int) -> Task:
    rows = [{"id": f"l{n}", "seed": f"{seed}.{n}"} for n in range(LEVELS)]
    split = {"train": rows, "test": [{"id": "t", "seed": f"{seed}.t"}]}
    world = {"kind": name, "history": HISTORY, **OPTIONS[name]}
    return Task.from_rows(split, id="id", prompt="level {seed}", environment=world)


def level(name: str, seed: str) -> Level:
    return WORLDS[name].make_level(derive_seed("level", seed))


def method_of(settings: Sequence[str]) -> Method:
    return override(find_method("gigpo"), "penalties=none", *settings)


def legal(text: str) -> list[str]:
    """The actions that a message names."""
    return text.rpartition("Actions: ")[2].split(", ")


# ---- a policy --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Actor:
    """
    What `learner.update.gradient_step` needs of a policy: a token for each action, and for each feature a row of
    logits.
    """

    actions: Sequence[str]
    features: dict[tuple[str, ...], int]
    is_sharded: ClassVar[bool] = False
    weights: Parameter = field(init=False)

    def __post_init__(self) -> None:
        self.weights = Parameter(torch.zeros(len(self.features), len(self.actions)))

    @classmethod
    def of(cls, name: str, seed: int) -> "Actor":
        """One that acts legally at random in the levels of a seed."""
        seen = [(row, render_turn(turn), turn.legal) for row, turn in _turns(name, seed)]
        actions = sorted({action for _, _, found in seen for action in found})
        now = [(row, text) for row, text, _ in seen]
        past = [(*key, action) for key, (_, _, found) in zip(now, seen, strict=True) for action in found]
        actor = cls(actions, {key: number for number, key in enumerate([*now, *past])})
        for key, (_, _, found) in zip(now, seen, strict=True):
            closed = [number for number, action in enumerate(actions) if action not in found]
            actor.weights.data[actor.features[key], closed] = ILLEGAL
        return actor

    def answer(self, request: Request) -> Reply:
        """An action, drawn by the request's seed."""
        prompt = self._prompt(request.payer.example, request.messages[1:])
        logits = self.weights.detach()[list(prompt)].sum(0).double()
        logp = logits.log_softmax(0).numpy()
        token = int(np.random.default_rng(request.sampling.seed).choice(len(logp), p=np.exp(logp)))
        encoded = TokenizedTurn(prompt, (token,), (float(logp[token]),))
        return Reply(Message("assistant", self.actions[token]), tokens=encoded)

    def _prompt(self, row: str, told: Sequence[Message]) -> tuple[int, ...]:
        """Features of what is seen, the present last; a turn with an action that was not possible has none."""
        keys = [(row, told[i].content, told[i + 1].content) for i in range(0, len(told) - 1, 2)]
        known = [self.features.get(key) for key in keys]
        return (*(each for each in known if each is not None), self.features[row, _plain(told[-1].content)])

    def parameters(self) -> list[Parameter]:
        return [self.weights]

    def clip_gradients(self, most: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(self.parameters(), most))


def _turns(name: str, seed: int) -> list[tuple[str, Turn]]:
    """Everything that the levels of a seed can show."""
    found = []
    for row in task(name, seed).train:
        here = level(name, row.metadata["seed"])
        open_states = [s for s in list_states(here) if not here.is_won(s)]
        found += [(row.id, Turn(here.render(s), here.legal_actions(s))) for s in open_states]
    return found


def _plain(text: str) -> str:
    """What is shown, without the sentence that an action was not possible."""
    return text.removeprefix(ILLEGAL_ACTION)


def logps(
    policy: Actor, batch: Batch, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """In place of `learner.attention.logprobs.logps`: (b, 1) log-probabilities, with a gradient."""
    most = max(map(len, batch.prompts))
    rows = torch.tensor([[*prompt, *[-1] * (most - len(prompt))] for prompt in batch.prompts])
    known = (rows >= 0)[..., None]
    logits = torch.where(known, embedding(rows.clamp(min=0), policy.weights), 0.0).sum(1) / temperature
    return logits.log_softmax(-1).gather(1, batch.ids), None


# ---- learning --------------------------------------------------------------------------------------------


def groups_of(asked: Task, says: Callable[[Request], Any], seed: int, size: int = 1) -> list[Group]:
    """So many groups of each level."""
    agent = Agent("scripted/actor", turns=TURNS, world=asked.world)

    def plan(row: Any, number: int) -> Plan[Group]:
        own = derive_seed(seed, number)
        return run_group(agent, row, row.messages, asked.reward, judge="", size=SIZE, seed=own)

    def together() -> Plan[list[Group]]:
        return (yield [plan(row, number) for row in asked.train for number in range(size)])

    return asyncio.run(drive(together(), ScriptedClient(says)))


def steps_to_target(name: str, seed: int, settings: Sequence[str], steps: int) -> tuple[int, list[float]]:
    """After how many steps the target was held, and the success of each step."""
    asked, method, actor = task(name, seed), method_of(settings), Actor.of(name, seed)
    optimizer = torch.optim.AdamW(actor.parameters(), LR, (0.9, 0.99), weight_decay=0.0)
    won: list[float] = []
    for number in range(1, steps + 1):
        found = groups_of(asked, actor.answer, derive_seed(seed, "step", number))
        won.append(fmean(reward for each in found for reward in each.rewards))
        if fmean(won[-IN_A_ROW:]) >= TARGET and len(won) >= IN_A_ROW:
            return number, won
        made = collate.build_batch(collate.assign_credit(collate.collect_scored(found), method))
        if made is not None:
            with mock.patch("edgewise.learner.update.gradient_step.compute_logps", logps):
                update(actor, optimizer, method, made, UpdateConfig(slice_tokens=1 << 20), torch.Generator())  # type: ignore[arg-type]
    return steps, won


def learnt(name: str, seed: int, steps: int) -> dict[str, int]:
    """Of each method, the steps to the target, from the same start."""
    torch.set_num_threads(1)
    found = {method: steps_to_target(name, seed, how, steps) for method, how in CREDIT.items()}
    for method, (number, won) in found.items():
        print(name, seed, method, number, [round(each, 2) for each in won[::5]], file=sys.stderr, flush=True)
    return {method: number for method, (number, _) in found.items()}


def against(found: Sequence[dict[str, int]], method: str) -> list[float]:
    """GRPO's steps minus the method's: mean, and its bootstrap interval."""
    gains = np.array([each["grpo"] - each[method] for each in found], float)
    if len(gains) < 3 or np.ptp(gains) == 0:
        return [round(float(gains.mean()), 2)] * 3
    low, high = bootstrap((gains,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return [round(float(each), 2) for each in (gains.mean(), low, high)]


# ---- recovery --------------------------------------------------------------------------------------------


def at_random(request: Request) -> Reply:
    """One of the actions that the last message names; credit looks at no token."""
    found = legal(request.messages[-1].content)
    said = found[(request.sampling.seed or 0) % len(found)]
    return Reply(Message("assistant", said), tokens=TokenizedTurn((0,), (1,), (0.0,)))


def planted(name: str, row_seed: str, over: Any) -> dict[tuple[str, str], float]:
    """What each action adds to the value of its state, by what is shown."""
    here = level(name, row_seed)
    worth = compute_action_values(here, GAMMA, over)
    by_state = defaultdict(list)
    for (state, _), value in worth.items():
        by_state[state].append(value)
    return {
        (render_turn(Turn(here.render(state), here.legal_actions(state))), action): value - over(by_state[state])
        for (state, action), value in worth.items()
    }


def recovered(name: str, seed: int, groups: int) -> dict[str, dict[str, float]]:
    """Rank correlations of each method's credit with the planted advantages."""
    found = groups_of(task(name, seed), at_random, seed, groups)
    rows = {each.example.id: each.example.metadata["seed"] for each in found}
    truths = {
        kind: {row: planted(name, seed, over) for row, seed in rows.items()}
        for kind, over in (("acting", fmean), ("best", max))
    }
    return {name: _ranked(found, truths, method_of(how)) for name, how in (CREDIT | ALONE).items()}


def _ranked(groups: Sequence[Group], truths: Any, method: Method) -> dict[str, float]:
    members = collate.collect_scored(groups)
    credit = collate.assign_credit(members, method).credit
    steps = [(m.rollout.example, s.prompt[-1].content, s.completion.content) for m in members for s in m.rollout.steps]
    by_pair = defaultdict(list)
    for key, value in zip(steps, credit.tolist(), strict=True):
        by_pair[key].append(value)
    pairs = list(by_pair)

    def truth(kind: str, keys: Sequence[tuple[str, str, str]]) -> list[float]:
        return [truths[kind][row][state, action] for row, state, action in keys]

    def ranks(mine: Sequence[float], theirs: Sequence[float]) -> float:
        return float(spearmanr(mine, theirs).statistic)

    means = [fmean(by_pair[pair]) for pair in pairs]
    return {
        "acting": ranks(means, truth("acting", pairs)),
        "best": ranks(means, truth("best", pairs)),
        "single": ranks(credit.tolist(), truth("acting", steps)),
    }


# ---- all of it -------------------------------------------------------------------------------------------


def figures(name: str, seeds: int, steps: int, groups: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    numbers = range(seeds)
    learning = [pool.submit(learnt, name, seed, steps) for seed in numbers]
    found = [each.result() for each in [pool.submit(recovered, name, seed, groups) for seed in numbers]]
    reached = [each.result() for each in learning]
    return {
        "steps": {method: round(fmean(each[method] for each in reached), 1) for method in CREDIT},
        "won": {method: sum(each[method] < steps for each in reached) for method in CREDIT},
        "fewer_than_grpo": {method: against(reached, method) for method in CREDIT if method != "grpo"},
        "recovered": {
            method: {kind: round(fmean(each[method][kind] for each in found), 3) for kind in found[0][method]}
            for method in found[0]
        },
    }


def main() -> int:
    seeds, steps, groups = (2, 6, 6) if quick() else (SEEDS, STEPS, GROUPS)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = {name: figures(name, seeds, steps, groups, pool) for name in WORLDS}
    holds = all(each["recovered"]["anchors"]["best"] >= ENOUGH for each in found.values())
    return report("step_credit", found, BAR, holds)


if __name__ == "__main__":
    sys.exit(main())
