"""Which runs of a query are compared, and what the distiller is shown of them."""

import numpy as np
import pytest

from edgewise.experience.distil.distiller import Distiller
from edgewise.experience.library.library import Library, make_lesson
from edgewise.mas.two_level.comparison import Contrast, build_contrasts, compare_contrast, pick_extremes
from edgewise.mas.two_level.delegation import DelegationSpec
from tests.support.mas.by_hand import EXAMPLE, levels, said, scored
from tests.support.plans import play

NOTHING = '{"operations": []}'


def drawn(*runs, shown=4, siblings=2):
    """(level, rewards of the runs, whether they are siblings) of each contrast."""
    found = build_contrasts(*levels(*runs), DelegationSpec(), shown, siblings)
    return [(x.level, [run.score.value for run in x.rollouts], bool(x.siblings_of)) for x in found]


@pytest.mark.parametrize(
    ("advantages", "most", "expected"),
    [
        ([1.0, -1.0, 0.0, 2.0, -2.0], 1, [3, 4]),
        ([1.0, -1.0, 0.0, 2.0, -2.0], 2, [0, 1, 3, 4]),
        ([1.0, 1.0, -1.0, -1.0], 1, [0, 2]),
        ([0.0, 0.0], 4, []),
        ([], 4, []),
    ],
)
def test_winners_and_losers_are_picked_by_advantage(advantages, most, expected):
    assert pick_extremes(np.array(advantages), most) == expected


def test_contrasts_of_both_levels_and_of_failed_siblings():
    assert drawn((1.0, [1.0, 0.6]), (0.1, [0.6, 0.2])) == [
        ("main", [1.0, 0.1], False),
        ("sub", [1.0, 0.6, 0.6, 0.2], False),
        ("sub", [0.6, 0.2], True),
    ]


def test_siblings_that_are_the_query_are_compared_once():
    assert drawn((0.1, [0.6, 0.2]), (0.1, [])) == [("sub", [0.6, 0.2], False)]


def test_siblings_of_successful_planners_are_left_out():
    assert [inside for _, _, inside in drawn((1.0, [1.0, 0.6]), (1.0, [0.9]))] == [False]


def test_siblings_that_differ_most_go_first():
    found = drawn((0.1, [0.3, 0.2]), (0.1, [0.6, 0.0]), (0.1, [0.4, 0.1]), siblings=2)
    assert [rewards for _, rewards, inside in found if inside] == [[0.6, 0.0], [0.4, 0.1]]
    assert not any(inside for *_, inside in drawn((0.1, [0.3, 0.2]), (0.1, [0.6]), siblings=0))


def test_a_run_without_a_reward_is_never_compared():
    assert drawn((1.0, [1.0, None]), (None, [None]), (0.1, [0.2])) == [
        ("main", [1.0, 0.1], False),
        ("sub", [1.0, 0.2], False),
    ]


def test_a_contrast_of_sub_runs_names_their_tasks():
    found = build_contrasts(*levels((1.0, [0.1, 1.0]), (0.1, [0.2, 0.2])), DelegationSpec(), 1, 0)[-1]
    assert [run.score.value for run in found.rollouts] == [0.1, 1.0]
    assert found.subtasks == ("part 0", "part 1")


def shown(contrast, **changes):
    requests = []

    def answer(request):
        requests.append(request)
        return NOTHING if request.schema else "a summary"

    library = Library((make_lesson("An old lesson."),))
    play(compare_contrast(Distiller("m", **changes), contrast, library), answer)
    return requests


def test_the_distiller_is_told_whose_attempts_it_sees():
    main = Contrast("main", EXAMPLE, (scored(said("right"), 1.0), scored(said("wrong"), 0.1)))
    (asked,) = shown(main)
    assert "those of a planner" in asked.messages[0].content
    user = asked.messages[1].content
    assert all(text in user for text in ("Q?", "An old lesson.", "(reward 1)\nright", "(reward 0.1)\nwrong"))


def test_subtasks_are_shown_without_the_rows_target():
    runs = (scored(said("7"), 1.0), scored(said("8"), 0.1))
    contrast = Contrast("sub", EXAMPLE, runs, ("3+4", "2+5"))
    *summaries, asked = shown(contrast, summaries="always")
    assert len(summaries) == 2
    assert all("right" not in request.messages[1].content for request in summaries)
    assert "3+4" in summaries[0].messages[1].content
    assert "those of sub-agents" in asked.messages[0].content
    assert "(reward 1)\nSub-task: 3+4\nResult: a summary" in asked.messages[1].content
