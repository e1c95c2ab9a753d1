"""
The built-in rewards. Each function takes the options of a task file's `reward` table and returns a grader.

    exact, contains, regex, choice      text        number, math      quantities
    json                                fields      python            code, run against tests
    environment                         the environment's own reward

A grader is called with the example, the rollout and the judge's model, and is a plan of a Score. All of them score 0 to
1 and explain in `feedback` what is wrong. The one that calls a model is `toolkit.reward.judge`.
"""

import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.tools.python_tool import run_python
from edgewise.toolkit.types import BlockingCall, Example, Plan, Rollout, Score
from edgewise.toolkit.util.extract import extract_code, extract_json, extract_number

Grade = Callable[[Example, Rollout, str], Plan[Score]]
LETTERS = tuple("ABCDEFGH")

# The program and the test are compiled apart, so that a wrong program can't swallow the test. The word at the end is
# random: printing, exiting early or raising SystemExit is no way to pass.
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
    """Require that the answer is the target, or one of a list of targets; `strip` ignores space around both."""

    def score(example: Example, answer: str) -> Score:
        targets = _list_targets(example, "exact")
        is_right = _normalize(answer, strip, casefold) in [_normalize(x, strip, casefold) for x in targets]
        return _binary_score(is_right, f"expected {' or '.join(map(repr, targets))}")

    return _text_grader(score)


def environment() -> Grade:
    """Return the sum of the environment's rewards, with the parts of `toolkit.rollout.episode`."""

    def grade(example: Example, rollout: Rollout, judge_model: str) -> Plan[Score]:
        if rollout.score is None:
            raise RewardError(f"row {example.id!r} was not played in an environment, which its reward needs")
        return rollout.score
        yield

    return grade


def contains(*, casefold: bool = True, words: bool = False) -> Grade:
    """Require that the answer contains the target, or one of a list; with `words` not as part of a longer word."""

    def score(example: Example, answer: str) -> Score:
        targets = [_normalize(x, True, casefold) for x in _list_targets(example, "contains")]
        text = _normalize(answer, True, casefold)
        is_right = any(re.search(_whole_word(x), text) if words else x in text for x in targets)
        return _binary_score(is_right, f"expected {' or '.join(map(repr, targets))} to be in the answer")

    return _text_grader(score)


def regex(*, pattern: str = "", group: int | str = 0, casefold: bool = False) -> Grade:
    """
    Require that the answer matches `pattern`, or the target as a pattern where none is given.

    With a `group` (number or name), its text in the last match must be the target.
    """
    flags = re.IGNORECASE if casefold else 0

    def compile_pattern(text: Any) -> "re.Pattern[str]":
        try:
            return re.compile(str(text), flags)
        except re.error as error:
            raise RewardError(f"{text!r} is no pattern for the reward 'regex': {error}") from error

    # Options are checked when the task is read, targets when they are used.
    if group != 0 and not pattern:
        raise RewardError("the reward 'regex' needs a pattern where a group is given")
    of_option = compile_pattern(pattern) if pattern else None
    if of_option and group != 0 and group not in (*range(of_option.groups + 1), *of_option.groupindex):
        raise RewardError(f"the pattern {pattern!r} of the reward 'regex' has no group {group!r}")

    def score(example: Example, answer: str) -> Score:
        compiled = of_option or compile_pattern(_require_target(example, "regex"))
        matches = list(compiled.finditer(answer))
        if not matches or group == 0:
            return _binary_score(bool(matches), f"expected a match of {compiled.pattern!r}")
        targets = _list_targets(example, "regex")
        captured = _normalize(matches[-1].group(group) or "", True, casefold)
        is_right = captured in [_normalize(x, True, casefold) for x in targets]
        return _binary_score(is_right, f"expected {' or '.join(map(repr, targets))}, found {captured!r}")

    return _text_grader(score)


def number(*, tolerance: float = 1e-9, relative: float = 0.0) -> Grade:
    """Require the last number in the answer within `tolerance` of the target, or within `relative` of its size."""

    def score(example: Example, answer: str) -> Score:
        # The target may be a whole solution, such as GSM8K's: its last number is the right answer.
        target, value = extract_number(str(_require_target(example, "number"))), extract_number(answer)
        if target is None:
            raise RewardError(f"the target of row {example.id!r} holds no number, which the reward 'number' needs")
        if value is None:
            return Score(0.0, feedback="there is no number in the answer")
        is_right = math.isclose(value, target, rel_tol=0.0, abs_tol=max(tolerance, relative * abs(target)))
        return _binary_score(is_right, f"expected {target:g}, found {value:g}")

    return _text_grader(score)


def mathematics(*, timeout: float = 5.0) -> Grade:
    """
    Require that the answer equals the target as mathematics: LaTeX, boxed or plain, fractions, sets, intervals.

    By the math-verify library, in a process of its own that is ended after `timeout` seconds (score 0).
    """
    from edgewise.toolkit.reward.math_equality import is_equal

    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        target = str(_require_target(example, "math"))
        is_right = yield BlockingCall(is_equal, (target, rollout.answer, timeout))
        if is_right is None:
            return Score(0.0, feedback=f"comparing the answer took longer than {timeout:g} seconds")
        return _binary_score(is_right, f"expected {target}")

    return grade


def fields(*, schema: Mapping[str, Any] | None = None, all_equal: bool = False) -> Grade:
    """
    Require JSON in the answer that follows the JSON `schema` and has the target's fields.

    The value is the share of the target's fields that are equal (with `all_equal` only 1 or 0), `parts` each of them. A
    target that is no object must be equal; without a target only the schema counts.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    # A wrong schema is an error of the task, so it is checked before any rollout.
    rules = dict(schema or {})
    try:
        validator_for(rules).check_schema(rules)
    except SchemaError as error:
        raise RewardError(f"the schema of the reward 'json' is wrong: {error.message}") from error
    validator = validator_for(rules)(rules)

    def score(example: Example, answer: str) -> Score:
        try:
            value = extract_json(answer)
        except ValueError:
            return Score(0.0, feedback="there is no JSON in the answer")
        problem = next(iter(validator.iter_errors(value)), None)
        if problem is not None:
            where = f"{problem.json_path}: {problem.message}"
            return Score(0.0, feedback=f"the JSON does not follow the schema: {where}")

        # Compare with the target, field by field if it is an object.
        target = _decode_json(example.target)
        if target is None:
            return Score(1.0)
        if not isinstance(target, Mapping) or not target:
            return _binary_score(value == target, f"expected {json.dumps(target, default=str)}")
        actual = value if isinstance(value, Mapping) else {}
        parts = {str(name): float(name in actual and actual[name] == target[name]) for name in target}
        wrong = [name for name in target if not parts[str(name)]]
        feedback = "; ".join(f"{name}: expected {target[name]!r}, found {actual.get(name)!r}" for name in wrong)
        share = sum(parts.values()) / len(parts)
        return Score(float(share == 1.0) if all_equal else share, parts, feedback=feedback)

    return _text_grader(score)


def choice(*, labels: Sequence[str] = (), casefold: bool = True) -> Grade:
    """
    Require that the last label in the answer is the target; without `labels` these are the letters A to H.

    Single letters count in capitals only, as "a" is a word too; unless the letter is the whole answer.
    """
    names = tuple(labels) or LETTERS
    are_letters = all(len(name) == 1 for name in names)
    # Longest first, so that "not urgent" is not read as "urgent".
    alternatives = "|".join(map(_whole_word, sorted(names, key=len, reverse=True)))
    finder = re.compile(alternatives, re.IGNORECASE if casefold and not are_letters else 0)

    def score(example: Example, answer: str) -> Score:
        target = str(_require_target(example, "choice")).strip()
        if target.casefold() not in {name.casefold() for name in names}:
            raise RewardError(f"the target {target!r} of row {example.id!r} is none of the labels {', '.join(names)}")
        # An answer of up to three characters, such as "b" or "(b)", is a label in any case.
        text = answer.strip()
        matches = finder.findall(text.upper() if are_letters and len(text) <= 3 else text)
        if not matches:
            return Score(0.0, feedback=f"the answer names none of {', '.join(names)}")
        last = matches[-1]
        return _binary_score(last.casefold() == target.casefold(), f"expected {target}, found {last}")

    return _text_grader(score)


def unit_tests(*, tests: str = "tests", partial: bool = False, timeout: float = 10.0, memory_mb: int = 512) -> Grade:
    """
    Require that the answer's last block of Python passes the tests in the row's column `tests`, or in the target.

    Tests are Python text (`assert`s; a `check(candidate)` is called where the row has an `entry_point`), a list of such
    texts, or a list of {"input": ..., "output": ...} for programs that read and print. Each is a sandboxed process of
    its own with `timeout` seconds; see `toolkit.tools.python_tool.run_python`. The value is 1 if all pass (with
    `partial`: the share that passes), `parts` each test.
    """

    def run_test(call: BlockingCall) -> Plan[str]:
        return (yield call)

    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        cases = _decode_json(example.metadata.get(tests, example.target))
        if not cases:
            raise RewardError(f"row {example.id!r} has no tests: neither in its column {tests!r} nor as its target")
        cases = list(cases) if isinstance(cases, list | tuple) else [cases]
        if not all(isinstance(x, str) or (isinstance(x, Mapping) and {"input", "output"} <= set(x)) for x in cases):
            raise RewardError(f"the tests of row {example.id!r} must be texts, or tables of 'input' and 'output'")
        # The form of HumanEval: the tests define `check`, and the row names the function to be checked.
        entry = example.metadata.get("entry_point")
        cases = [f"{x}\ncheck({entry})" if entry and "def check(" in x else x for x in cases]

        code = extract_code(rollout.answer)
        problems = yield [run_test(BlockingCall(_find_problem, (code, case, timeout, memory_mb))) for case in cases]
        # The feedback is the first problem only: later ones often follow from it.
        passes = [not problem for problem in problems]
        value = sum(passes) / len(passes) if partial else float(all(passes))
        parts = {f"test {n}": float(is_right) for n, is_right in enumerate(passes, 1)}
        return Score(value, parts, feedback=next(filter(None, problems), ""))

    return grade


def _find_problem(code: str, test: str | Mapping[str, Any], timeout: float, memory_mb: int) -> str:
    """
    Run `code` against `test`: Python text that raises on failure, or an input with the expected output.

    Returns "" if it passes, else one line that describes the failure. A program that searches its own process for the
    word of the harness can cheat: this guards against accidents and simple tricks.
    """

    def as_text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    if isinstance(test, str):
        word = secrets.token_hex(16)
        program, stdin = HARNESS.format(code=repr(code), test=repr(test)), word + "\n"
    else:
        word, program, stdin = "", code, as_text(test["input"])
    outcome = run_python(program, stdin=stdin, timeout=timeout, memory_mb=memory_mb)

    if outcome.timed_out:
        return f"stopped, it took longer than {timeout:g} seconds"
    if outcome.exit_code or (word and not outcome.stdout.endswith(word + "\n")):
        last = outcome.stderr.strip().splitlines()
        return last[-1] if last else f"the program ended early, with exit code {outcome.exit_code}"
    if isinstance(test, str):
        return ""
    # Outputs are compared word by word: space between words and at the end does not matter.
    target, output = as_text(test["output"]).split(), outcome.stdout.split()
    if output == target:
        return ""
    return f"expected the output {' '.join(target)!r}, found {' '.join(output)[:200]!r}"


def _text_grader(score: Callable[[Example, str], Score]) -> Grade:
    """Make a grader of a function of the answer alone, which yields nothing."""

    def grade(example: Example, rollout: Rollout, judge: str) -> Plan[Score]:
        yield from ()
        return score(example, rollout.answer)

    return grade


def _binary_score(is_right: bool, feedback: str) -> Score:
    return Score(1.0) if is_right else Score(0.0, feedback=feedback)


def _require_target(example: Example, name: str) -> Any:
    if example.target is None:
        raise RewardError(f"row {example.id!r} has no target, which the reward {name!r} compares with")
    return example.target


def _list_targets(example: Example, name: str) -> list[str]:
    # Numbers in the target column are compared as text.
    target = _require_target(example, name)
    return [str(x) for x in (target if isinstance(target, list | tuple | set | frozenset) else [target])]


def _normalize(text: str, strip: bool, casefold: bool) -> str:
    text = text.strip() if strip else text
    return text.casefold() if casefold else text


def _whole_word(label: str) -> str:
    return rf"(?<!\w){re.escape(label)}(?!\w)"


def _decode_json(target: Any) -> Any:
    """Decode JSON text; other text and other values stay as they are."""
    try:
        return json.loads(target) if isinstance(target, str) else target
    except ValueError:
        return target
