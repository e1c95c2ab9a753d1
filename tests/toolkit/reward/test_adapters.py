import asyncio
import re
from types import SimpleNamespace

import pytest

from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Example, Message, Rollout, Score, Step, ToolCall

ROW = {"question": "What is 6 x 7?", "answer": "42", "level": 3}
EXAMPLE = Example("q1", (Message("system", "s"), Message("user", "What is 6 x 7?")), ROW["answer"], ROW)


def run_of(answer):
    call = Message("assistant", "", (ToolCall("1", "python", '{"code": "6*7"}'),))
    prompt = (*EXAMPLE.messages, call, Message("tool", "42", tool_call_id="1"))
    steps = (Step(EXAMPLE.messages, call), Step(prompt, Message("assistant", answer)))
    return Rollout("q1", "solver", 0, steps, "stop")


class NoModel:
    async def ask(self, request):
        raise AssertionError("no model may be called")


def grade_answer(function, answer="It is 42", example=EXAMPLE):
    reward = resolve_reward(function)
    return reward.style, asyncio.run(drive(reward.grade(example, run_of(answer), ""), NoModel()))


def trl_text(completions, answer, **kwargs):
    return [1.0 if right in text else 0.0 for text, right in zip(completions, answer, strict=True)]


def trl_conversational(prompts, completions, **kwargs):
    assert "6 x 7" in prompts[0][-1]["content"]
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.search(r"\b42\b", content) else 0.0 for content in contents]


async def trl_async(prompts, completions, completion_ids, trainer_state, level, log_metric=None, **kwargs):
    log_metric("length", len(completions[0]))
    return [float("42" in completions[-1][-1]["content"] and level == [3])]


def verl_number(data_source, solution_str, ground_truth, extra_info=None):
    return float(ground_truth in solution_str and extra_info["level"] == 3 and data_source == "")


def compute_score(solution_str, ground_truth, **kwargs):
    return {"score": 1.0 if ground_truth in solution_str else -1.0, "acc": ground_truth in solution_str, "pred": "x"}


async def verifiers_task(self, trace):
    last = trace.assistant_messages[-1].content
    assert trace.tool_messages[0].content == "42" and trace.num_turns == 2
    trace.record_metric("turns", trace.num_turns)
    return 1.0 if self.data.answer in last else 0.0


async def verifiers_function(task, trace):
    return {"right": float(task.data.answer in trace.last_reply), "short": 0.0}


def verifiers_rubric(completion, answer, state, **kwargs):
    return 1.0 if answer in completion[-1]["content"] and state["question"] else 0.0


def verify_func(sample, timeout_score: float = 0, **kwargs) -> dict:
    return {"reward": float(sample.correct_answer in sample.response), "reasoning": f"about {sample.raw_question}"}


async def verify_async(sample, timeout_score=0, **kwargs):
    await asyncio.sleep(0)
    return {"reward": float(sample["answer"] in sample["response"]), "reasoning": None}


def gepa_metric(gold, pred, trace, pred_name, pred_trace):
    right = gold.answer in pred.answer
    return SimpleNamespace(score=float(right), feedback="right" if right else f"wrong, it is {gold['answer']}")


def dspy_metric(example, pred, trace=None):
    assert trace is None
    return example.answer in pred.answer


class Prediction:
    """Like DSPy's: it has feedback and converts to a number."""

    def __init__(self, score, feedback):
        self.score, self.feedback = score, feedback

    def __float__(self):
        return float(self.score)


def dspy_prediction(example, pred, trace=None):
    return Prediction(float("42" in pred.response), "fine")


def gepa_evaluator(candidate, example):
    score = float(example["answer"] in candidate)
    return score, {"Input": example["question"], "scores": {"brief": 0.5}, "chars": len(candidate)}


@pytest.mark.parametrize(
    ("function", "style", "parts", "feedback"),
    [
        (trl_text, "trl", {}, ""),
        (trl_conversational, "trl", {}, ""),
        (trl_async, "trl", {"length": 1.0}, ""),
        (verl_number, "verl", {}, ""),
        (compute_score, "verl", {"acc": 1.0}, ""),
        (verifiers_task, "verifiers", {"turns": 2.0}, ""),
        (verifiers_function, "verifiers", {"right": 1.0, "short": 0.0}, ""),
        (verifiers_rubric, "verifiers", {}, ""),
        (verify_func, "youtu-agent", {}, "about What is 6 x 7?"),
        (verify_async, "youtu-agent", {}, ""),
        (gepa_metric, "dspy", {}, "right"),
        (dspy_metric, "dspy", {}, ""),
        (dspy_prediction, "dspy", {}, "fine"),
        (gepa_evaluator, "gepa", {"brief": 0.5, "chars": 8.0}, "Input: What is 6 x 7?"),
    ],
)
def test_functions_of_other_libraries_run_unchanged(function, style, parts, feedback):
    detected, score = grade_answer(function)
    assert detected == style
    assert score == Score(1.0, parts, feedback=feedback)
    assert grade_answer(function, "It is 7")[1].value < 1


@pytest.mark.parametrize(
    "function",
    [
        lambda answer: "42" in answer,
        lambda text: "42" in text,
        lambda x: "42" in x,
        lambda answer, target: target in answer,
        lambda x, y: y in x,
        lambda response, answer: answer in response,
        lambda expected, got: expected in got,
        lambda gold, pred: gold in pred,
        lambda solution, target: target in solution,
        lambda target, answer, tolerance=0.1: target in answer and tolerance == 0.1,
        lambda answer, example: example.target in answer and example.metadata["level"] == 3,
        lambda answer, *, target: target in answer,
        lambda question, answer, metadata: "6" in question and metadata["answer"] in answer,
        lambda example, rollout: example.target in rollout.answer,
        lambda answer, target, *rest, **more: target in answer and not rest and not more,
    ],
)
def test_plain_functions_get_arguments_by_name(function):
    assert grade_answer(function) == ("plain", Score(1.0))
    assert grade_answer(function, "It is 7") == ("plain", Score(0.0))


@pytest.mark.parametrize(
    "function",
    [
        lambda: 1.0,
        lambda *args, **kwargs: 1.0,
        lambda answer, target, colour: 1.0,
        lambda task, episode: 1.0,
        lambda self, trace, runtime: 1.0,
        lambda example: 1.0,
    ],
)
def test_an_unknown_signature_lists_the_styles(function):
    with pytest.raises(RewardError, match=r"fits no known style.*trl, verl"):
        resolve_reward(function)


def test_a_missing_column_is_named():
    def needs(completions, difficulty):
        return [0.0]

    with pytest.raises(RewardError, match=r"needs needs difficulty.*'q1'.*question, answer, level"):
        grade_answer(needs)


def test_a_batch_reward_returns_one_number():
    with pytest.raises(RewardError, match="one number per completion"):
        grade_answer(lambda completions: [1.0, 2.0])


@pytest.mark.parametrize("function", [lambda completions: [None], lambda answer: None])
def test_none_is_an_invalid_score(function):
    assert grade_answer(function)[1] == Score(0.0, valid=False)


def test_verl_rows_keep_their_ground_truth():
    row = {"data_source": "gsm8k", "reward_model": {"style": "rule", "ground_truth": "7"}, "extra_info": {"split": "a"}}
    calls = []

    def compute(data_source, solution_str, ground_truth, extra_info=None):
        calls.append((data_source, ground_truth, extra_info))
        return 0.0

    grade_answer(compute, example=Example("v", EXAMPLE.messages, "other", row))
    assert calls == [("gsm8k", "7", {"split": "a"})]


def test_dspy_prediction_has_the_target_column():
    row = {"message": "help", "team": "amber"}
    example = Example("t", EXAMPLE.messages, row["team"], row)
    assert grade_answer(lambda gold, pred, trace=None: gold.team == pred.team, "amber", example)[1].value == 1


def test_async_errors_name_function_and_row():
    async def breaks(answer):
        raise KeyError("k")

    with pytest.raises(RewardError, match="breaks raised on row 'q1': KeyError: 'k'"):
        grade_answer(breaks)


def test_errors_of_text_functions_are_not_retried():
    def wrong(completions, **kwargs):
        raise TypeError("mine")

    with pytest.raises(RewardError, match="TypeError: mine"):
        grade_answer(wrong)


def test_numpy_numbers_are_numbers():
    numpy = pytest.importorskip("numpy")
    assert grade_answer(lambda answer: numpy.float32(0.5))[1].value == 0.5
    assert grade_answer(lambda answer: numpy.array(0.25))[1].value == 0.25
