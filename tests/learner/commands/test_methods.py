"""`edgewise methods`: the table, one method, and what is refused."""

import json

import pytest

from edgewise.learner.methods.method import describe, override
from edgewise.learner.methods.published import METHODS
from tests.support.command import CommandResult, run_command


@pytest.fixture
def methods(capsys):
    def command(*arguments: object) -> CommandResult:
        return run_command(capsys, "methods", *arguments)

    return command


def test_methods_are_a_table_of_name_paper_and_difference(methods) -> None:
    done = methods()
    assert (done.code, done.err) == (0, "")
    rows = {name: (paper, " ".join(rest)) for name, paper, *rest in map(str.split, done.out.splitlines())}
    assert rows == {name: (each.paper, each.differs) for name, each in METHODS.items()}
    assert [each["name"] for each in json.loads(methods("--json").out)] == list(METHODS)


def test_one_method_is_shown_axis_by_axis(methods) -> None:
    lines = methods("Dr-GRPO").out.splitlines()
    assert lines[0] == "dr_grpo, arXiv 2503.20783"
    assert METHODS["dr_grpo"].note in lines
    assert lines[-11:] == describe(METHODS["dr_grpo"])


def test_settings_change_the_printed_method(methods) -> None:
    settings = ("loss.high=0.3", "penalties=entropy")
    given = [word for setting in settings for word in ("--set", setting)]
    assert methods("dapo", *given).out.splitlines()[-11:] == describe(override(METHODS["dapo"], *settings))
    axes = json.loads(methods("dapo", *given, "--json").out)["axes"]
    assert axes["loss"] == "clipped low=0.2 high=0.3 delta=null"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gropo"], "There is no method 'gropo'; did you mean 'grpo'?"),
        (["dapo", "--set", "loss.hi=1"], "clipped has no parameter 'hi'; it has low, high, delta."),
        (["dapo", "--set", "loss=clip"], "loss has no part 'clip'"),
        (["--set", "loss.high=1"], "--set changes one method: name it"),
    ],
)
def test_wrong_method_or_setting_is_one_sentence(methods, arguments, sentence) -> None:
    done = methods(*arguments)
    assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1
    assert sentence in done.err
