import pytest

from edgewise import Task
from edgewise.experience.config import ExperienceConfig
from edgewise.experience.distil import pooling
from edgewise.experience.distil.distiller import Distiller
from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.library.operations import Operation
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step
from tests.support import toy
from tests.support.plans import play

DISTILLER = Distiller("m")


def make_row(id: str, target: str) -> Example:
    return Example(id, (Message("user", f"about {id}"),), target)


def groups(answers: dict[str, str]) -> list[Group]:
    """One run on each row, known as TARGET-NUMBER, with this answer."""
    groups_list = []
    for id, answer in answers.items():
        example = make_row(id, id.partition("-")[0])
        step = Step(example.messages, Message("assistant", answer))
        run = Rollout(id, "solver", 0, (step,), "stop", Score(float(answer == example.target)))
        groups_list.append(Group(example, "solver", (run,)))
    return groups_list


def library(**lessons: str) -> Library:
    return Library(tuple(make_lesson(f"{topics} -> {answer}") for answer, topics in lessons.items()))


@pytest.mark.parametrize(
    ("targets", "recurs"),
    [
        (["a", "b"] * 3, True),
        (["a", "b", "c"] * 2, False),
        ([1, 1, 1], False),
        (["", "", ""], False),
        (["long " * 20] * 9, False),
    ],
)
def test_short_answers_of_three_rows_or_more_recur(targets, recurs):
    assert pooling.has_recurring_answers([make_row(str(n), t) for n, t in enumerate(targets)]) is recurs


def test_pooling_needs_the_truth_and_can_be_switched_off():
    task, config = toy.task(), ExperienceConfig(model="m")
    assert ExperienceSpec(task, config).is_pooled
    for change in ({"pool": False}, {"truth": False}, {"direct": True}):
        assert not ExperienceSpec(task, config.model_copy(update=change)).is_pooled


def test_only_long_inputs_are_shortened_by_the_model():
    rows = [{"text": "short one", "target": "a"}, {"text": "long " * 80, "target": "a"}]
    task = Task.from_rows({"train": rows, "test": [{"text": "x", "target": "a"}]}, prompt="Fixed words: {text}")
    requests = []

    def model(request):
        requests.append(request)
        return "Something long.\nSecond line"

    lengths = {
        len(play(pooling.propose_topic(DISTILLER, task, Group(x, "solver", ())), model).proposals[0].text.split())
        for x in task.train
    }
    assert lengths == {len("short one -> a".split()), len("Something long -> a".split())}
    assert len(requests) == 1
    assert "Fixed words" not in requests[0].messages[-1].content


def test_join_makes_one_lesson_per_answer_and_draw():
    proposals = [Operation(action="add", text=f"t{n} -> {n % 2}", sources=(f"r{n}",)) for n in range(40)]
    questions = []

    def model(request):
        questions.append(request.messages[-1].content)
        return "kind (cases)"

    draws = play(pooling.join_proposals(DISTILLER, Library(), proposals, 3, seed=1), model)
    assert [[op.text for op in ops] for ops in draws] == [["Kind (cases) -> 0", "Kind (cases) -> 1"]] * 3
    assert len(set(questions)) == 6
    assert all(len(text.splitlines()) == pooling.MAX_ITEMS for text in questions)
    assert draws[0][0].sources == tuple(sorted(f"r{n}" for n in range(0, 40, 2)))


def test_join_modifies_the_current_lesson_with_its_topics():
    current = library(red="bricks")
    questions = []

    def model(request):
        questions.append(request.messages[-1].content)
        return "walls"

    ((op,),) = play(
        pooling.join_proposals(DISTILLER, current, [Operation(action="add", text="roof -> red")], 1, seed=1), model
    )
    assert (op.action, op.id, op.text) == ("modify", current.lessons[0].id, "Walls -> red")
    assert questions[0].splitlines() == ["- bricks", "- roof"]


def test_join_with_an_empty_reply_changes_nothing():
    ((op,),) = play(
        pooling.join_proposals(DISTILLER, Library(), [Operation(action="add", text="roof -> red")], 1, seed=1),
        lambda request: "",
    )
    assert op.text == ""
