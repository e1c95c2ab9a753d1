"""The search tool: results, their size, and what it refuses."""

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.tools.search_tool import ANSWER_CHARACTERS, PASSAGE_CHARACTERS, read_passages, search_tool


@pytest.fixture
def folder(tmp_path):
    """Three short texts."""
    texts = {
        "animals/spiders.txt": "A spider has eight legs.\n\nA crab has ten legs, and lives in the sea.",
        "boats.md": "# Boats\n\nA sailing boat needs wind. Café owners rarely sail.",
        "notes.csv": "spider,never read",
    }
    for name, text in texts.items():
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    return tmp_path / "docs"


def ask(path, query: str, k: int = 5) -> str:
    return search_tool(path, k).run(query=query)


# ---- what it finds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "source"),
    [
        ("How many legs does a SPIDER have?", "animals/spiders.txt"),
        ("sailing boats", "boats.md"),
        ("cafe", "boats.md"),
        ('wind" OR NEAR( * -x', "boats.md"),
        ("animals", "animals/spiders.txt"),
    ],
)
def test_the_best_passage_comes_first_with_its_source(folder, query, source):
    assert ask(folder, query).startswith(f"[1] {source}\n")


@pytest.mark.parametrize("query", ["helicopter", "", "?!", "\ud800", "\0"])
def test_a_query_without_a_match_says_so(folder, query):
    assert ask(folder, query) == "(nothing was found; try other words)"


def test_search_returns_the_k_best_passages(tmp_path):
    rows = [{"id": n, "text": f"owl {'owl ' * n}{'filler ' * (9 - n)}"} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = ask(tmp_path / "rows.jsonl", "owl", k=3)
    assert [line for line in answer.splitlines() if line.startswith("[")] == ["[1] 8", "[2] 7", "[3] 6"]


def test_a_search_answer_stays_within_its_limit(tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(f"owl {'x' * (PASSAGE_CHARACTERS - 10)} {n}" for n in range(20)))
    answer = ask(tmp_path, "owl", k=20)
    assert ANSWER_CHARACTERS / 2 < len(answer) <= ANSWER_CHARACTERS
    assert answer.count("[") == answer.count("long.txt") > 1


def test_rows_are_named_by_their_source_column(tmp_path):
    rows = [{"text": "owl", "title": "Owls"}, {"text": "crow", "url": ""}, {"text": "hen", "n": 3}]
    path = tmp_path / "r.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert list(read_passages(path)) == [("Owls", "owl"), ("r.jsonl:3", "crow"), ("r.jsonl:5", "hen")]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\r"), min_size=1), min_size=1), st.integers(1, 400))
def test_passages_keep_all_words_in_order_within_their_limit(tmp_path_factory, words, times):
    text = " ".join(words * times)
    path = tmp_path_factory.mktemp("t") / "a.txt"
    path.write_text(text, encoding="utf-8", errors="replace")
    passages = [passage for _, passage in read_passages(path)]
    assert all(0 < len(passage) <= PASSAGE_CHARACTERS for passage in passages)
    text = path.read_text("utf-8-sig").replace("\0", " ")
    assert "".join("".join(passages).split()) == "".join(text.split())


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_no_query_is_an_error(search_words, query):
    assert search_words(query=query).startswith(("(nothing was found", "[1] a.txt"))


@pytest.fixture(scope="module")
def search_words(tmp_path_factory):
    """The search in one short text."""
    path = tmp_path_factory.mktemp("words") / "a.txt"
    path.write_text("some words")
    return search_tool(path).run


def test_several_threads_may_search_at_once(folder):
    run, answers = search_tool(folder).run, []
    threads = [threading.Thread(target=lambda: answers.append(run(query="spider legs"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16 and len(set(answers)) == 1


# ---- as a tool of a task -------------------------------------------------------------------------------------


def test_a_task_names_search_by_a_relative_path(folder):
    (folder.parent / "task.toml").write_text("")
    for base in (folder.parent, folder.parent / "task.toml"):
        (tool,) = load_tools(["search:docs"], base)
        assert tool.tool.name == "search"
        assert list(tool.tool.parameters["properties"]) == ["query"]
        assert "eight legs" in tool.run(query="spider")
    assert "wind" in load_tools([f"search:{folder / 'boats.md'}"])[0].run(query="boat")


def test_a_wrong_search_call_is_reported_to_the_model(folder):
    assert search_tool(folder).run(words="spider").startswith("error: wrong arguments")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (None, "", "nothing to search at .*none"),
        ("empty/", "", "no text to search in .*put .txt or .md files there"),
        ("blank.txt", " \n\n ", "no text to search in"),
        ("empty.jsonl", "", "no text to search in"),
        ("picture.png", "x", r"picture\.png can't be searched: name a folder"),
        ("bad.jsonl", '{"text": "a"}\n{', r"bad\.jsonl, line 2 is no JSON"),
        ("other.jsonl", '{"body": "a"}', r"other\.jsonl, line 1 has no text: .*column `text`"),
        ("list.jsonl", "[1]", "line 1 has no text"),
        ("number.jsonl", '{"text": 3}', "line 1 has no text"),
    ],
)
def test_unsearchable_paths_are_refused_when_the_task_is_read(tmp_path, name, content, sentence):
    if name and name.endswith("/"):
        (tmp_path / name).mkdir()
    elif name:
        (tmp_path / name).write_text(content)
    with pytest.raises(TaskError, match=sentence):
        load_tools([f"search:{name or 'none'}"], tmp_path)


def test_an_unknown_tool_is_told_of_it():
    with pytest.raises(TaskError, match="no tool 'serach'; there is 'python', 'search:FOLDER'"):
        load_tools(["serach"])
