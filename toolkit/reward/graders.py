"""
The built-in rewards. Each function takes the options of a task file's `reward` table and returns a grader.

    exact, contains, regex, choice      text        number, math      quantities
    json                                fields      python            code, run against tests
    environment                         what the environment gave

A grader is called with the example, the rollout and the judge's model, and is a plan of a Score. All of them
score 0 to 1 and say in `feedback` what was wrong. The one that asks a model is `toolkit.reward.judge`.
"""

import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.tools.python_tool import ProgramOutcome, run_python
from edgewise.toolkit.types import BlockingCall, Example, Plan, Rollout, Score
from edgewise.toolkit.util.extract import extract_code, extract_json, extract_number

Grade = Callable[[Example, Rollout, str], Plan[Score]]
LETTERS = tuple("ABCDEFGH")

# The program and the test are compiled apart, so that a wrong program cannot swallow the test. The word at
# the end is not known before: printing, exiting early or raising SystemExit is no way to pass.
HARNESS = """\
import os, sys
scope = {{"__name__": "answer"}}
word = sys.stdin.readline()
exec(compile({code}, "answer.py", "exec"), scope)
exec(compile({test}, "test.py", "exec"), scope)
sys.stdout.flush()
os.write(1, word.encode())
"""


def exact(*, strip: bool = True, casefold: bool = False) -> Grade:
    """The answer is the target, or one of a list of targets; `strip` ignores space around both."""

    def same(example: Example, answer: str) -> Score:
        wanted = _targets(example, "exact")
        right = _plain(answer, strip, casefold) in [_plain(one, strip, casefold) for one in wanted]
        return _verdict(right, f"expected {_either(wanted)}")

    return _pure(same)


def environment() -> Grade:
    """The sum of what the environment of the task gave, step by step, with the parts of `toolkit.rollout.episode`."""

    def given(example: Example, rollout: Rollout, judge_model: str) -> Plan[Score]:
        if rollout.score is None:
            raise RewardError(f"row {example.id!r} was not played in an environment, which its reward needs")
        return rollout.score
        yield

    return given


def contains(*, casefold: bool = True, words: bool = False) -> Grade:
    """The target, or one of a list, is in the answer; with `words` not as part of a longer word."""

    def inside(example: Example, answer: str) -> Score:
        wanted = [_plain(one, True, casefold) for one in _targets(example, "contains")]
        text = _plain(answer, True, casefold)
        right = any(re.search(_alone(one), text) if words else one in text for one in wanted)
        return _verdict(right, f"expected {_either(wanted)} to be in the answer")

    return _pure(inside)


def regex(*, pattern: str = "", group: int | str = 0, casefold: bool = False) -> Grade:
    """
    The answer matches `pattern`, or the target as a pattern where none is given.

    With a `group` (number or name), what it captured in the last match must be the target.
    """
    flags = re.IGNORECASE if casefold else 0
    if group != 0 and not pattern:
        raise RewardError("the reward 'regex' needs a pattern where a group is given")
    given = _compiled(pattern, flags) if pattern else None
    if given and group != 0 and group not in (*range(given.groups + 1), *given.groupindex):
        raise RewardError(f"the pattern {pattern!r} of the reward 'regex' has no group {group!r}")

    def matches(example: Example, answer: str) -> Score:
        compiled = given or _compiled(_target(example, "regex"), flags)
        found = list(compiled.finditer(answer))
        if not found or group == 0:
            return _verdict(bool(found), f"expected a match of {compiled.pattern!r}")
        wanted = _targets(example, "regex")
        captured = _plain(found[-1].group(group) or "", True, casefold)
        right = captured in [_plain(one, True, casefold) for one in wanted]
        return _verdict(right, f"expected {_either(wanted)}, found {captured!r}")

    return _pure(matches)


def number(*, tolerance: float = 1e-9, relative: float = 0.0) -> Grade:
    """The last number in the answer is within `tolerance` of the target, or within `relative` of its size."""

    def near(example: Example, answer: str) -> Score:
        wanted, found = extract_number(str(_target(example, "number"))), extract_number(answer)
        if wanted is None:
            raise RewardError(
                f"the target of row {example.id!r} holds no number, which the reward 'number' needs"
            )
        if found is None:
            return Score(0.0, feedback="there is no number in the answer")
        right = math.isclose(found, wanted, rel_tol=0.0, abs_tol=max(tolerance, relative * abs(wanted)))
        return _verdict(right, f"expected {wanted:g}, found {found:g}")

    return _pure(near)


def mathematics(*, timeout: float = 5.0) -> Grade:
    """
    The answer equals the target as mathematics: LaTeX, boxed or plain, fractions, sets, intervals, equations.

    By the math-verify library, in a process of its own that is ended after `timeout` seconds (score 0).
    """
    from edgewise.toolkit.reward.math_equality import is_equal

    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        wanted = str(_target(example, "math"))
        right = yield BlockingCall(is_equal, (wanted, rollout.answer, timeout))
        if right is None:
            return Score(0.0, feedback=f"comparing the answer took longer than {timeout:g} seconds")
        return _verdict(right, f"expected {wanted}")

    return grade


def fields(*, schema: Mapping[str, Any] | None = None, all_equal: bool = False) -> Grade:
    """
    The answer holds JSON that follows the JSON `schema` and has the target's fields.

    The value is the share of the target's fields that are equal (with `all_equal` only 1 or 0), `parts` each
    of them. A target that is no object must be equal; without a target only the schema counts.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    rules = dict(schema or {})
    try:
        validator_for(rules).check_schema(rules)
    except SchemaError as error:
        raise RewardError(f"the schema of the reward 'json' is wrong: {error.message}") from error
    validator = validator_for(rules)(rules)

    def follows(example: Example, answer: str) -> Score:
        try:
            value = extract_json(answer)
        except ValueError:
            return Score(0.0, feedback="there is no JSON in the answer")
        wrong = next(iter(validator.iter_errors(value)), None)
        if wrong is not None:
            return Score(
                0.0, feedback=f"the JSON does not follow the schema: {wrong.json_path}: {wrong.message}"
            )
        return _compared(value, _as_json(example.target), all_equal)

    return _pure(follows)


def choice(*, labels: Sequence[str] = (), casefold: bool = True) -> Grade:
    """
    The last label that the answer names is the target; without `labels` these are the letters A to H.

    Single letters count in capitals only, as "a" is a word too; unless the letter is the whole answer.
    """
    names = tuple(labels) or LETTERS
    letters = all(len(name) == 1 for name in names)
    longest_first = sorted(names, key=len, reverse=True)
    ignore = re.IGNORECASE if casefold and not letters else 0
    finder = re.compile("|".join(map(_alone, longest_first)), ignore)

    def picks(example: Example, answer: str) -> Score:
        wanted = str(_target(example, "choice")).strip()
        if wanted.casefold() not in {name.casefold() for name in names}:
            raise RewardError(
                f"the target {wanted!r} of row {example.id!r} is none of the labels {', '.join(names)}"
            )
        text = answer.strip()
        found = finder.findall(text.upper() if letters and len(text) <= 3 else text)
        if not found:
            return Score(0.0, feedback=f"the answer names none of {', '.join(names)}")
        return _verdict(found[-1].casefold() == wanted.casefold(), f"expected {wanted}, found {found[-1]}")

    return _pure(picks)


def unit_tests(
    *, tests: str = "tests", partial: bool = False, timeout: float = 10.0, memory_mb: int = 512
) -> Grade:
    """
    The answer's last block of Python passes the tests in the row's column `tests`, or in the target.

    Tests are Python text (`assert`s; a `check(candidate)` is called where the row has an `entry_point`), a
    list of such texts, or a list of {"input": ..., "output": ...} for programs that read and print. Each is a
    sandboxed process of its own with `timeout` seconds; see `toolkit.tools.python_tool.run_python`. The value is 1
    if all pass (with `partial`: the share that passes), `parts` each test.
    """

    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        cases = _cases(example, tests)
        code = extract_code(rollout.answer)
        results = yield [_once(BlockingCall(_passes, (code, case, timeout, memory_mb))) for case in cases]
        passed = [not problem for problem in results]
        value = sum(passed) / len(passed) if partial else float(all(passed))
        problem = next(filter(None, results), "")
        return Score(value, {f"test {n}": float(one) for n, one in enumerate(passed, 1)}, feedback=problem)

    return grade


def _passes(code: str, test: str | Mapping[str, Any], timeout: float, memory_mb: int) -> str:
    """
    Run `code` against `test`: Python text that raises on failure, or what to read and what then to print.

    Returns "" if it passes, else one line that says what went wrong. A program that sets out to find the word
    of the harness in its own process can cheat: this guards against accidents and simple tricks.
    """
    if isinstance(test, str):
        word = secrets.token_hex(16)
        program = HARNESS.format(code=repr(code), test=repr(test))
        outcome = run_python(program, stdin=word + "\n", timeout=timeout, memory_mb=memory_mb)
        passed = outcome.exit_code == 0 and outcome.stdout.endswith(word + "\n")
        return "" if passed else _problem(outcome, timeout)
    outcome = run_python(code, stdin=_text(test["input"]), timeout=timeout, memory_mb=memory_mb)
    if outcome.timed_out or outcome.exit_code:
        return _problem(outcome, timeout)
    wanted, found = _text(test["output"]).split(), outcome.stdout.split()
    return (
        ""
        if found == wanted
        else f"expected the output {' '.join(wanted)!r}, found {' '.join(found)[:200]!r}"
    )


def _pure(score: Callable[[Example, str], Score]) -> Grade:
    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        yield from ()
        return score(example, rollout.answer)

    return grade


def _once(work: BlockingCall) -> Plan[Any]:
    return (yield work)


def _verdict(right: bool, otherwise: str) -> Score:
    return Score(1.0) if right else Score(0.0, feedback=otherwise)


def _target(example: Example, name: str) -> Any:
    if example.target is None:
        raise RewardError(f"row {example.id!r} has no target, which the reward {name!r} compares with")
    return example.target


def _targets(example: Example, name: str) -> list[str]:
    target = _target(example, name)
    several = isinstance(target, list | tuple | set | frozenset)
    return [str(one) for one in target] if several else [str(target)]


def _plain(text: str, strip: bool, casefold: bool) -> str:
    text = text.strip() if strip else text
    return text.casefold() if casefold else text


def _either(wanted: Sequence[str]) -> str:
    return " or ".join(map(repr, wanted))


def _alone(label: str) -> str:
    return rf"(?<!\w){re.escape(label)}(?!\w)"


def _compiled(pattern: Any, flags: int) -> "re.Pattern[str]":
    try:
        return re.compile(str(pattern), flags)
    except re.error as error:
        raise RewardError(f"{pattern!r} is no pattern for the reward 'regex': {error}") from error


def _as_json(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    try:
        return json.loads(target)
    except ValueError:
        return target


def _compared(value: Any, target: Any, all_equal: bool) -> Score:
    if target is None:
        return Score(1.0)
    if not isinstance(target, Mapping) or not target:
        return _verdict(value == target, f"expected {json.dumps(target, default=str)}")
    found = value if isinstance(value, Mapping) else {}
    parts = {str(name): float(name in found and found[name] == target[name]) for name in target}
    wrong = [
        f"{name}: expected {target[name]!r}, found {found.get(name)!r}"
        for name in target
        if not parts[str(name)]
    ]
    share = sum(parts.values()) / len(parts)
    return Score(float(share == 1.0) if all_equal else share, parts, feedback="; ".join(wrong))


def _cases(example: Example, column: str) -> list[Any]:
    """The tests of a row, as a list: each a text or a mapping with "input" and "output"."""
    tests = _as_json(example.metadata.get(column, example.target))
    if not tests:
        raise RewardError(
            f"row {example.id!r} has no tests: neither in its column {column!r} nor as its target"
        )
    entry = example.metadata.get("entry_point")
    cases = list(tests) if isinstance(tests, list | tuple) else [tests]
    if not all(
        isinstance(c, str) or (isinstance(c, Mapping) and {"input", "output"} <= set(c)) for c in cases
    ):
        raise RewardError(f"the tests of row {example.id!r} must be texts, or tables of 'input' and 'output'")
    return [f"{case}\ncheck({entry})" if entry and "def check(" in case else case for case in cases]


def _problem(outcome: ProgramOutcome, timeout: float) -> str:
    if outcome.timed_out:
        return f"stopped, it took longer than {timeout:g} seconds"
    last = outcome.stderr.strip().splitlines()
    return last[-1] if last else f"the program ended early, with exit code {outcome.exit_code}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
