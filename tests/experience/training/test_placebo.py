from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training import placebo
from edgewise.experience.training.loop import learn
from edgewise.toolkit.types import Group, Rollout, Score
from tests.support import toy
from tests.support.plans import play

SETTINGS = {"epochs": 1, "batch_size": 12, "pool": False, "leave_one_out": 0}
SPEC = ExperienceSpec(toy.task(), ExperienceConfig(model="scripted/toy", placebo=True, **SETTINGS))


def test_placebo_arms_are_measured_and_gain_nothing():
    outcome = play(learn(SPEC), toy.play)
    _, after, off_topic, shuffled = outcome.evaluation.results
    assert [arm.name for arm in (off_topic, shuffled)] == ["placebo: off topic", "placebo: shuffled rewards"]
    assert after.against.mean.estimate > 0.2
    assert off_topic.against.mean.estimate == 0
    assert shuffled.mean.estimate < after.mean.estimate, "lessons from shuffled answers are mostly wrong"
    assert outcome.files["library.json"]["lessons"][0]["text"].startswith("A ")


def test_without_placebo_there_are_two_arms():
    spec = ExperienceSpec(SPEC.task, SPEC.config.model_copy(update={"placebo": False}))
    assert [arm.name for arm in play(learn(spec), toy.play).evaluation.results] == ["before", "after"]


def test_off_topic_lessons_have_the_same_number_and_length():
    library = Library((make_lesson("one two three"), make_lesson("a b c d e", "form")), place="split")
    other = placebo.make_off_topic_library(SPEC, library)
    assert [len(x.text.split()) for x in other.lessons] == [3, 5]
    assert [x.kind for x in other.lessons] == ["content", "form"]
    assert other.place == "split"
    assert not {w for x in other.lessons for w in x.text.split()} & {"one", "two", "a", "b"}


def test_permuted_scores_and_answers_are_all_there():
    groups = [
        Group(row, "solver", tuple(Rollout(row.id, "solver", i, (), "stop", Score(n + i / 10)) for i in range(3)))
        for n, row in enumerate(SPEC.task.train[:8])
    ]
    permuted = placebo.permute_rewards(SPEC, groups)

    def scores(some):
        return [run.score.value for group in some for run in group.rollouts]

    assert sorted(scores(permuted)) == sorted(scores(groups))
    assert scores(permuted) != scores(groups)
    targets = [group.example.target for group in groups]
    assert sorted(g.example.target for g in permuted) == sorted(targets)
    assert [g.example.target for g in permuted] != targets
    assert [g.example.id for g in permuted] == [g.example.id for g in groups]
