"""Runs of planner and sub-agents, written by hand, with the rewards that a test wants."""

from dataclasses import replace

from edgewise.mas.two_level.advantages import build_levels, inverse_weights
from edgewise.mas.two_level.delegation import DELEGATE
from edgewise.toolkit.types import Example, Message, Rollout, Score, Step, ToolCall

EXAMPLE = Example("q", (Message("user", "Q?"),), target="right")


def said(answer="right", stop="stop", calls=(), below=()):
    """A run of one or two turns; `below` are the runs that it delegated."""
    made = tuple(ToolCall(f"c{n}", DELEGATE, f'{{"task": "part {n}"}}') for n in range(len(below)))
    first = Step((), Message("assistant", "", (*calls, *made)), subrollouts=tuple(below))
    last = Step((), Message("assistant", answer))
    steps = (first, last) if below or calls else (last,)
    return Rollout("q", "main", 0, steps, stop)


def scored(run, value, *, valid=True, part=1.0):
    return replace(run, score=Score(value, {"valid": part, "correct": value}, valid))


def levels(*runs, align=inverse_weights, seed=0):
    """Main runs given as (reward or None, rewards of their sub runs)."""
    made = []
    for reward, below in runs:
        subs = [scored(said(), r or 0.0, valid=r is not None) for r in below]
        made.append(scored(said(below=subs), reward or 0.0, valid=reward is not None))
    return build_levels(EXAMPLE, made, align, seed)
