import asyncio
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.reward import math_equality
from edgewise.toolkit.reward.reward import BUILT_IN, resolve_reward
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Example, Message, Rollout, Score, Step
from edgewise.toolkit.util.extract import extract_json, extract_number


class NoModel:
    async def ask(self, request):
        raise AssertionError("no model may be called")


def run_of(answer, stop="stop", error=""):
    return Rollout("row", "solver", 0, (Step((), Message("assistant", answer)),), stop, error=error)


def grade_answer(spec, answer, target=None, base=None, **metadata):
    example = Example("row", (Message("user", "question"),), target, metadata)
    return asyncio.run(drive(resolve_reward(spec, base).grade(example, run_of(answer), ""), NoModel()))


def table(kind, **options):
    return {"kind": kind, **options}


CALL = "```python\ndef add(a, b):\n    return a + b\n```"
SCHEMA = {"type": "object", "required": ["team"], "properties": {"team": {"enum": ["a", "b"]}}}


@pytest.mark.parametrize(
    ("spec", "answer", "target", "value"),
    [
        ("exact", " amber\n", "amber", 1),
        ("exact", "Amber", "amber", 0),
        ("exact", "", "amber", 0),
        ("exact", "7", 7, 1),
        ("exact", "b", ["a", "b"], 1),
        (table("exact", casefold=True), "AMBER", "amber", 1),
        (table("exact", strip=False), "amber ", "amber", 0),
        ("contains", "I say Amber!", "amber", 1),
        ("contains", "chambers", "amber", 1),
        (table("contains", words=True), "chambered", "amber", 0),
        (table("contains", words=True), "so: amber.", "amber", 1),
        (table("contains", casefold=False), "Amber", "amber", 0),
        ("regex", "ab12", r"\d+$", 1),
        ("regex", "12ab", r"\d+$", 0),
        (table("regex", pattern=r"team: (\w+)", group=1), "team: x, no, team: amber", "amber", 1),
        (table("regex", pattern=r"team: (?P<t>\w+)", group="t"), "team: birch", "amber", 0),
        (table("regex", pattern=r"team: (\w+)", group=1), "nothing", "amber", 0),
        ("number", "first 3, so 1,234.50 in all", "1234.5", 1),
        ("number", "The answer is 4.", 4, 1),
        ("number", "−7", "#### -7", 1),
        ("number", "three", 3, 0),
        ("number", "3.2", 3, 0),
        (table("number", tolerance=0.25), "3.2", 3, 1),
        (table("number", relative=0.01), "1009", 1000, 1),
        (table("number", relative=0.01), "1011", 1000, 0),
        ("math", r"so \boxed{0.5}", "1/2", 1),
        ("math", r"$\frac{2}{4}$", r"\frac{1}{2}", 1),
        ("math", "$1+x^2$", "x^2+1", 1),
        ("math", "I do not know", "5", 0),
        ("math", r"\boxed{6}", "5", 0),
        ("json", '{"team": "a", "more": 1}', {"team": "a"}, 1),
        ("json", 'Sure: {"team": "b", "n": 2}.', '{"team": "a", "n": 2}', 0.5),
        (table("json", all_equal=True), '{"team": "b", "n": 2}', {"team": "a", "n": 2}, 0),
        ("json", '```json\n{"team": "a"}\n```', {"team": "a"}, 1),
        ("json", "no", {"team": "a"}, 0),
        ("json", "[1, 2]", [1, 2], 1),
        ("json", "[1]", {"team": "a"}, 0),
        (table("json", schema=SCHEMA), '{"team": "c"}', None, 0),
        (table("json", schema=SCHEMA), '{"team": "b"}', None, 1),
        ("choice", "Not A, so (B).", "B", 1),
        ("choice", r"\boxed{C}", "c", 1),
        ("choice", "b", "B", 1),
        ("choice", "a plain sentence", "A", 0),
        ("choice", "A good one, but B", "A", 0),
        (table("choice", labels=["urgent", "not urgent"]), "It is NOT urgent", "not urgent", 1),
        (table("choice", labels=["urgent", "not urgent"]), "urgent", "not urgent", 0),
        ("python", CALL, "assert add(1, 2) == 3", 1),
        ("python", CALL, "assert add(1, 2) == 4", 0),
        ("python", CALL, "def check(f):\n    assert f(1, 1) == 2", 1),
        ("python", "import sys; sys.exit(0)", "assert False", 0),
        ("python", "print(int(input()) * 2)", [{"input": "4", "output": "8\n"}], 1),
        ("python", "print(int(input()) * 3)", [{"input": "4", "output": "8"}], 0),
    ],
)
def test_built_in_reward_of_an_answer(spec, answer, target, value):
    score = grade_answer(spec, answer, target, entry_point="add")
    assert (score.value, score.valid) == (value, True)
    assert bool(score.feedback) == (value < 1), "feedback explains every loss, and only losses"


@pytest.mark.parametrize("partial, value", [(True, 0.5), (False, 0.0)])
def test_unit_tests_have_a_part_each(partial, value):
    tests = ["assert add(1, 2) == 3", "assert add(2, 2) == 5"]
    score = grade_answer(table("python", partial=partial), CALL, tests=tests)
    assert (score.value, dict(score.parts)) == (value, {"test 1": 1.0, "test 2": 0.0})
    assert "AssertionError" in score.feedback


def test_a_hanging_program_fails_at_its_timeout():
    score = grade_answer(table("python", timeout=0.5), "while True: pass", "pass")
    assert score.value == 0 and "longer than 0.5" in score.feedback


def test_json_parts_name_each_field():
    score = grade_answer("json", '{"team": "b", "n": 2}', {"team": "a", "n": 2, "x": None})
    assert dict(score.parts) == {"team": 0.0, "n": 1.0, "x": 0.0}


def test_a_slow_formula_is_wrong_at_its_timeout():
    score = grade_answer(table("math", timeout=1), r"$10^{10^{10^{10}}}$", "10")
    assert score.value == 0 and "longer than 1 seconds" in score.feedback


def test_a_broken_math_worker_is_an_error():
    assert math_equality.is_equal("1/2", "0.5", 5)
    worker = math_equality._idle.get()
    worker.kill()
    worker.wait()
    math_equality._idle.put(worker)
    with pytest.raises(RewardError, match="exit code -9"):
        grade_answer("math", "0.5", "1/2")
    assert grade_answer("math", "0.5", "1/2").value == 1


@pytest.mark.parametrize(
    ("spec", "target", "message"),
    [
        ("exact", None, "row 'row' has no target"),
        ("number", "none", "holds no number"),
        ("choice", "maple", "none of the labels"),
        ("regex", "(", "no pattern"),
        ("python", None, "no tests"),
        ("python", [1], "must be texts"),
    ],
)
def test_a_row_that_cannot_be_graded_is_an_error(spec, target, message):
    with pytest.raises(RewardError, match=message):
        grade_answer(spec, "answer", target)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exat", "did you mean 'exact'"),
        ("frobnicate", "there is exact, contains"),
        (table("number", tolerence=1), "did you mean 'tolerance'"),
        (table("number", tolerance="wide"), "option 'tolerance' of the reward 'number' is wrong"),
        (table("regex", pattern="("), "no pattern"),
        (table("regex", pattern="a", group=2), "no group 2"),
        (table("regex", group=1), "needs a pattern"),
        (table("json", schema={"type": "nonsense"}), "schema of the reward 'json' is wrong"),
        ({"tolerance": 1}, "needs a kind"),
        ([], "empty"),
        ([{"kind": "exact", "weight": "much"}], "must be a number"),
        (17, "must be a name, a table, a list or a function"),
        ("nowhere:grade", "module 'nowhere' is missing"),
    ],
)
def test_a_wrong_spec_raises_with_a_hint(spec, message):
    with pytest.raises(RewardError, match=message):
        resolve_reward(spec)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_is_given_by_name_or_function(name):
    assert resolve_reward(name).name == resolve_reward(BUILT_IN[name]).name == name
    assert resolve_reward(resolve_reward(name)).style == "built-in"


def test_failed_rollouts_never_reach_the_grader():
    def explode(answer):
        raise AssertionError

    plan = resolve_reward(explode).grade(Example("row", ()), run_of("x", "timeout", "30 s"), "")
    score = asyncio.run(drive(plan, NoModel()))
    assert score == Score(0.0, valid=False, feedback="the run broke (timeout: 30 s)")


def test_a_weighted_list_sums_and_keeps_parts():
    spec = [table("exact", weight=2), {"kind": lambda answer: len(answer), "weight": 0.5}, "contains"]
    score = grade_answer(spec, "amber", "amber")
    assert score.value == 2 + 2.5 + 1
    assert dict(score.parts) == {"exact": 1.0, "<lambda>": 5.0, "contains": 1.0}


def test_an_ungraded_reward_invalidates_the_sum():
    def skip(answer):
        return None

    def broken(answer):
        return Score(0.0, valid=False, feedback="no reply")

    assert grade_answer(["exact", skip], "a", "a").value == 1
    assert not grade_answer([skip, skip], "a", "a").valid
    score = grade_answer(["exact", broken], "a", "a")
    assert not score.valid and "broken: no reply" in score.feedback


def test_two_rewards_of_one_kind_are_numbered():
    score = grade_answer(["number", table("number", tolerance=5)], "3", 4)
    assert dict(score.parts) == {"number 1": 0.0, "number 2": 1.0}


def test_reward_functions_load_beside_the_task_file(tmp_path):
    (tmp_path / "helper.py").write_text("BONUS = 0.5\n")
    (tmp_path / "mine.py").write_text("import helper\ndef grade(answer, *, plus=0):\n    return helper.BONUS + plus\n")
    task, before = tmp_path / "task.toml", list(sys.path)
    task.write_text("")
    assert grade_answer("mine:grade", "x", base=task).value == 0.5
    assert grade_answer(table("mine:grade", plus=1), "x", base=tmp_path).value == 1.5
    assert sys.path == before
    with pytest.raises(RewardError, match="no parameter 'minus'"):
        resolve_reward(table("mine:grade", minus=1), tmp_path)
    with pytest.raises(RewardError, match="did you mean 'grade'"):
        resolve_reward("mine:grad", tmp_path)


def test_a_broken_module_names_its_error(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(RewardError, match="ZeroDivisionError"):
        resolve_reward("bad:grade", tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_reward_is_an_error(value):
    def odd(answer):
        return value

    with pytest.raises(RewardError, match=r"odd gave .* on row 'row'"):
        grade_answer(odd, "x")


@pytest.mark.parametrize("function", [lambda answer: 1 / 0, lambda answer: "good", lambda answer: [1, 2]])
def test_errors_name_the_reward_and_the_row(function):
    with pytest.raises(RewardError, match=r"<lambda> .* on row 'row'"):
        grade_answer(function, "x")


@given(st.floats(-1e12, 1e12, allow_nan=False).map(lambda x: round(x, 4)), st.text(alphabet="abc ,;", max_size=8))
def test_numbers_with_commas_are_extracted(value, prose):
    assert extract_number(f"{prose} {value:,.4f} {prose}") == pytest.approx(value, abs=1e-4)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=3))
def test_json_objects_in_prose_are_extracted(value):
    assert extract_json(f"Here you are: {json.dumps(value)} I hope this helps.") == value


def test_endless_brackets_are_not_json():
    with pytest.raises(ValueError):
        extract_json("[" * 5000)
