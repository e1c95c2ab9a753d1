"""The report of a finished run: what it says, that it stands alone, and that it survives what runs hold."""

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.report import charts, run_report
from edgewise.toolkit.report.html import node, page

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = '<script>alert("x")</script> & <img src=http://evil.example/x> 日本 \ud800'


class Reader(HTMLParser):
    """Collects text by tag and attributes; fails where tags are not balanced."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.tags = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def book(usd: float | None):
    return {"calls": 4, "input": 4000, "cached": 10, "output": 20, "usd": usd, "estimated": 0}


def arm(name, version, mean, against=None):
    return {
        "name": name,
        "version": version,
        "mean": {"estimate": mean, "low": mean - 0.1, "high": mean + 0.1, "p": None},
        "passes": {"1": mean},
        "rollouts": 2,
        "failed": 0,
        "usage": {"input": 2000, "cached": 0, "output": 10},
        "unreported": 0,
        "tool_calls": 0.0,
        "against": against,
    }


def against(gain, low, high, better=("r0",), worse=(), p=0.01, baseline="before"):
    mean = {"estimate": gain, "low": low, "high": high, "p": p}
    return {"baseline": baseline, "mean": mean, "better": list(better), "worse": list(worse)}


def lesson(text):
    return {"id": "ab", "text": text, "kind": "form", "born": 1, "sources": ["t1", "t2"]}


def result(
    difference,
    improved=True,
    lessons=("Be brief",),
    usd: float | None = 0.5,
    artifact=None,
    names=("before", "after"),
):
    arms = [arm(names[0], "old", 0.2), arm(names[1], "new", 0.5, difference)]
    changed = [*difference["better"], *difference["worse"]]
    library = {"place": "before", "lessons": [lesson(text) for text in lessons]}
    return {
        "task": "triage",
        "improved": improved,
        "evidence": {
            "examples": 40,
            "samples": 1,
            "threshold": 1.0,
            "results": arms,
            "rows": [
                {"example": id, "arm": name, "rewards": [float(i)], "failed": 0}
                for id in changed
                for i, name in enumerate(names)
            ],
        },
        "costs": {
            "total": book(usd),
            "measuring": book(usd),
            "learning": book(usd),
            "role": {"rollout": book(usd)},
            "step": {"0": book(usd), "1": book(usd)},
        },
        "artifact": {"library.json": library} if artifact is None else artifact,
        "run": "runs/x",
        "seconds": 61.0,
    }


STEP = {
    "step": 1,
    "epoch": 1,
    "incomplete": "",
    "statistics": {"runs": 10, "failed": 0, "mean_reward": 0.3, "mixed": 0.5, "pass": 0.6, "tool_calls": 0.0},
    "groups": [{"example": "t1", "rewards": [0.0, 1.0], "proposals": [], "skipped": "all rewards are equal"}],
    "operations": [
        {"action": "add", "id": None, "text": "Be brief", "applied": True, "reason": ""},
        {"action": "add", "id": None, "text": "Be short", "applied": False, "reason": "joined with ab, same"},
        {"action": "delete", "id": "G9", "text": None, "applied": False, "reason": "there is no lesson 'G9'"},
    ],
    "gate": {
        "winner": "updated",
        "accepted": True,
        "difference": 0.1,
        "rows": 8,
        "p": 0.004,
        "level": 0.01,
        "worse": [],
        "means": {"current": 0.2},
    },
    "dropped": [],
}


def line(example, library, answer, prompt="Which team?"):
    return {
        "example": example,
        "library": library,
        "sample": 0,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
        "error": "",
        "score": {"value": 1.0, "parts": {}, "valid": True, "feedback": "expected birch"},
    }


@pytest.fixture
def run(tmp_path):
    """Writes a run directory and returns it."""

    def write(content, steps=(), lines=(), config=""):
        (tmp_path / "result.json").write_text(json.dumps(content))
        (tmp_path / "config.toml").write_text(config)
        (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        for step in steps:
            folder = tmp_path / "steps" / f"{step['step']:03d}"
            folder.mkdir(parents=True)
            (folder / "step.json").write_text(json.dumps(step))
        return tmp_path

    return write


def read(path):
    file = run_report.write(path)
    assert file == path / "report.html"
    return Reader(file.read_text(encoding="utf-8"))


GAIN = against(0.3, 0.19, 0.4, p=0.001)
NO_LESSON = result(against(0.0, 0.0, 0.0, better=()), improved=False, lessons=())
LOSS = result(against(-0.02, -0.1, 0.05, better=(), worse=("r1",), p=0.6), improved=False)
EVALUATED = result(
    against(0.3, 0.19, 0.4, baseline="unchanged"),
    False,
    artifact={"evidence.json": {}},
    names=("unchanged", "r1"),
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            result(GAIN),
            "Learning raised the mean reward on 40 held-out rows from 0.200 to 0.500: "
            "+0.300 (95 % interval +0.190 to +0.400, p = 0.0010).",
        ),
        (result(against(0.3, -0.1, 0.7)), "p = 0.0100), which chance alone may explain."),
        (result(against(0.3, None, None, p=1.0)), "+0.300 (no interval: too few rows, p = 1.0000)."),
        (NO_LESSON, "Nothing worth keeping was found: the model stays as it is, with a mean reward of 0.200"),
        (
            LOSS,
            "Nothing worth keeping was found: on 40 held-out rows the mean reward changed by −0.020 (95 %",
        ),
        (EVALUATED, "On 40 held-out rows, r1 against unchanged: +0.300 (95 % interval +0.190 to +0.400"),
    ],
)
def test_the_sentence_says_what_was_found(run, content, sentence):
    assert sentence in read(run(content)).text


def test_a_run_with_steps_shows_lessons_curve_operations_rows_and_costs(run):
    lines = [line("r0", "old", "amber"), line("r0", "new", "birch"), line("other", "new", "unseen")]
    told = read(run(result(GAIN), [STEP], lines, 'model = "local/x"\nseed = 7\n'))
    for words in (
        "G0 Be brief form 1 2",
        "1 applied, 1 joined, 1 rejected; kept “updated” (+0.100 on 8 validation rows, p 0.004)",
        "there is no lesson 'G9'",
        "1 of 1 groups gave no lesson: all rewards are equal",
        "r0 : 0 → 1 Which team?",
        "Answer of “before”, reward 1; expected birch amber",
        "Answer of “after”, reward 1; expected birch birch",
        "rollout 4 4,000 10 20 $0.5000",
        "seed 7",
    ):
        assert words in told.text
    assert "unseen" not in told.text
    titles = [svg_title for tag, svg_title in zip(told.tags, told.tags[1:], strict=False) if tag[0] == "svg"]
    assert len(titles) == 4


def test_answers_of_the_measurement_are_told_from_those_of_learning(run):
    learning = [line("r0", "old", "from learning"), line("r0", "middle", "from learning")]
    told = read(run(result(GAIN), lines=[*learning, line("r0", "old", "amber"), line("r0", "new", "birch")]))
    assert "from learning" not in told.text
    assert re.search(r"“before”.* amber .*“after”.* birch ", told.text)


def test_two_arms_under_the_same_library_show_the_same_answers(run):
    content = result(against(0.3, 0.1, 0.4, better=("r0",), baseline="unchanged"), names=("unchanged", "b"))
    content["evidence"]["results"].insert(1, arm("a", "old", 0.2, against(0.0, 0.0, 0.0, better=())))
    told = read(run(content, lines=[line("r0", "old", "amber"), line("r0", "new", "birch")])).text
    assert re.search(r"“unchanged”.* amber .*“b”.* birch ", told)


def test_an_evaluation_has_no_lessons_and_no_curve(run):
    told = read(run(EVALUATED))
    assert "Compared" in told.text
    assert not {"Lessons", "Learning curve", "Before and after"} & set(told.texts)


def test_zero_lessons_are_said(run):
    assert "No lesson was kept." in read(run(NO_LESSON, [{**STEP, "operations": [], "gate": None}])).text


def test_unknown_prices_are_unknown_and_not_zero(run):
    told = read(run(result(GAIN, usd=None), config='model = "http://host/x"\n')).text
    assert "price unknown" in told and "Dollars are unknown" in told and "$" not in told


def test_dollars_of_an_arm_follow_the_prices_of_the_run(run):
    told = read(run(result(GAIN), config='model = "some/model"\n[prices]\n"*" = [1000.0, 100.0]\n'))
    assert "2,000 0 10 $2.00" in told.text


def test_long_lists_and_texts_are_cut_with_a_count(run):
    many = [f"r{i:03d}" for i in range(run_report.ROWS + 7)]
    told = read(
        run(result(against(0.3, 0.1, 0.4, better=many)), lines=[line("r000", "old", "x" * 5000)])
    ).text
    assert "Better: 27" in told and "7 more rows are left out." in told
    assert f"{5000 - run_report.LETTERS:,} more letters" in told
    assert many[run_report.ROWS - 1] in told and many[run_report.ROWS] not in told


def test_hostile_text_is_shown_and_never_run_or_loaded(run):
    content = result(against(0.3, 0.1, 0.4, better=(HOSTILE[:60],)), lessons=(HOSTILE,))
    content["task"] = HOSTILE
    step = {**STEP, "incomplete": HOSTILE, "operations": [{**STEP["operations"][0], "text": HOSTILE}]}
    lines = [line(HOSTILE[:60], version, HOSTILE, HOSTILE) for version in ("old", "new")]
    told = read(run(content, [step], lines, 'model = "<script>"\n'))
    assert {tag for tag, _ in told.tags}.isdisjoint({"script", "img", "link", "iframe", "i"})
    assert not [
        value for _, attrs in told.tags for key, value in attrs.items() if key in ("src", "href", "onload")
    ]
    assert told.text.count('<script>alert("x")</script>') >= 8 and "日本" in told.text


def test_the_style_sheet_loads_nothing(run):
    html = run_report.write(run(result(GAIN), [STEP])).read_text()
    assert not re.search(r"https?://|@import|url\(|src=|href=", html)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("result.json", None, "has no result.json"),
        ("result.json", "{", "result.json is damaged"),
        ("result.json", "[]", "result.json is damaged"),
        ("result.json", '{"task": "x"}', r"result.json is damaged \(improved: Field required"),
        ("result.json", b"\xff\xfe", "result.json is damaged"),
        ("rollouts.jsonl", '{"example": "r0"', "rollouts.jsonl is damaged"),
        ("rollouts.jsonl", "3\n", "rollouts.jsonl is damaged"),
        ("config.toml", "= 3", "config.toml is damaged"),
        ("steps/001/step.json", "{}", "step.json is damaged"),
    ],
)
def test_a_damaged_run_is_refused_with_a_sentence(run, name, content, words):
    path = run(result(GAIN), [STEP])
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtifactError, match=words):
        run_report.write(path)
    assert not (path / "report.html").exists()


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_few_round_and_span_the_range(low, span):
    marks = charts.ticks(low, low + span)
    step = marks[1] - marks[0]
    assert marks == sorted(set(marks)) and 2 <= len(marks) <= 8
    assert marks[0] <= low + step * 1e-6 and marks[-1] >= low + span - step * 1e-6


@given(st.text(st.characters(exclude_characters="\r\0"), max_size=40))
def test_text_comes_back_as_it_was_put_in(text):
    html = page("t", [node("p", node("b", text, title=text), text)]).decode()
    told = Reader(html)
    shown = text.encode("utf-8", "replace").decode()
    assert "".join(told.texts).endswith(f"{shown}{shown}\n")
    assert next(attrs for tag, attrs in told.tags if tag == "b")["title"] == shown


# ---- training of weights -----------------------------------------------------------------------------------

ABOUT = {
    "base": "torch/smollm2-135m",
    "lora": 0,
    "name": "dapo",
    "paper": "2503.14476",
    "differs": "clips higher <up>",
    "method": ["select: in_turn", "loss: clipped low=0.2 high=0.28", "penalties: none", "epochs: 1"],
    "trained": "cpu, 2 threads, bfloat16",
    "steps": 3,
    "stopped": "",
}


def trained(number, kl=0.0, went="", **statistics):
    seen = {"runs": 8, "mean_reward": 0.1 * number, "mixed": 0.5, "length": 40.0, "entropy": 1.5, "kl": kl}
    return {"step": number, "epoch": 1, "statistics": {**seen, **statistics}, "went": went}


@pytest.fixture
def weights(run):
    """Writes the run directory of a training and returns what its report says."""

    def write(*steps, **about):
        artifact = {"weights.json": {**ABOUT, **about}}
        path = run(result(against(0.3, 0.1, 0.5), artifact=artifact), steps)
        (path / "weights.json").write_text(json.dumps({**ABOUT, **about}))
        return read(path)

    return write


def test_training_shows_its_curves_its_method_and_where_it_went_back(weights):
    back = "the mean reward fell from 0.30 to 0.10: learning goes back to step 1"
    shown = weights(trained(1, 0.002), trained(2, 0.004, went=back), trained(3, 0.001))
    for part in ("Mean reward per step", "Mean length of replies", "Entropy of replies", "KL of an update"):
        assert part in shown.text
    assert f"Step 2: {back}." in shown.text
    assert "dapo, arXiv 2503.14476. Differs from GRPO: clips higher <up>." in shown.text
    assert "loss clipped low=0.2 high=0.28" in shown.text
    assert "Method dapo, 3 steps on cpu, 2 threads, bfloat16" in shown.text
    hollow = [kind for _, kind in shown.tags if "hollow" in kind.get("class", "")]
    assert len(hollow) == 5  # one of each curve
    assert "candidate library" not in shown.text


def test_a_training_with_one_update_a_batch_has_no_kl_and_says_so(weights):
    shown = weights(trained(1, 1e-9), trained(2), stopped="the loss is no number, 3 times")
    assert "No KL" in shown.text and "KL of an update" not in shown.text
    assert "learning stopped early: the loss is no number, 3 times" in shown.text


def test_a_training_of_no_steps_has_a_report(weights):
    assert "Learning curve" in weights(steps=0).text


def test_damaged_notes_of_training_are_named(run):
    path = run(result(against(0.3, 0.1, 0.5), artifact={"weights.json": ABOUT}))
    (path / "weights.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"weights\.json is damaged"):
        run_report.write(path)
