"""The catalogue of roles, and roles of the user's own."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgewise.mas.graph.roles import CATALOGUE, Role, catalogue, filter_roles, find_role
from edgewise.toolkit.errors import GraphError
from tests.support.mas.graphs import law

NOTARY = Role(name="notary", does="signs")


@pytest.fixture
def file(tmp_path):
    """Writes a file of roles."""
    path = tmp_path / "roles.toml"

    def write(text: str | bytes) -> Path:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


# ---- the catalogue -------------------------------------------------------------------------------------------


def test_there_are_at_least_fourteen_different_roles():
    assert len(CATALOGUE) >= 14
    assert len({role.model_dump_json(exclude={"name", "does"}) for role in CATALOGUE.values()}) == len(CATALOGUE)
    assert len({role.does for role in CATALOGUE.values()}) == len(CATALOGUE)


@pytest.mark.parametrize("role", CATALOGUE.values(), ids=lambda role: role.name)
def test_a_prompt_asks_for_what_its_contract_checks(role):
    wording = {"verdict": "VERDICT: ", "parts": "list", "plan": "plan", "notes": "", "answer": ""}
    assert wording[role.gives] in role.prompt
    assert role.marked == ("RESULT:" in role.prompt)
    assert all(tool in ("*", "python", "search") for tool in role.tools)


@pytest.mark.parametrize("role", CATALOGUE.values(), ids=lambda role: role.name)
def test_a_role_with_a_prompt_bounds_its_tokens(role):
    assert role.votes or not role.prompt or (role.max_tokens or 0) <= 1024


def test_only_roles_that_answer_may_be_the_exit():
    silent = {name for name, role in CATALOGUE.items() if not role.answers}
    assert silent == {"planner", "decomposer", "researcher", "critic", "verifier", "summariser"}


def test_filter_roles_drops_roles_without_their_tools():
    everywhere = filter_roles(CATALOGUE, [])
    assert set(CATALOGUE) - set(everywhere) == {"tool-user", "researcher"}
    assert "solver" in everywhere
    assert list(filter_roles(CATALOGUE, ["search", "python"])) == list(CATALOGUE)


def test_an_unknown_role_raises_with_a_suggestion():
    assert find_role(CATALOGUE, "critic").name == "critic"
    with pytest.raises(GraphError, match="no role 'critc'; did you mean 'critic'"):
        find_role(CATALOGUE, "critc")


# ---- one's own -----------------------------------------------------------------------------------------------


def test_a_file_adds_roles_and_later_sources_win(file):
    path = file('[notary]\ndoes = "stamps"\nprompt = """\nStamp\nit."""\n[critic]\ndoes = "x"\nhears = 2\n')
    roles = catalogue(path)
    assert roles["notary"] == Role(name="notary", does="stamps", prompt="Stamp\nit.")
    assert roles["critic"] == Role(name="critic", does="x", hears=2)
    assert list(roles) == [*CATALOGUE, "notary"]
    assert catalogue(str(path), NOTARY)["notary"].does == "signs"
    assert catalogue([NOTARY], path)["notary"].does == "stamps"
    assert "notary" not in CATALOGUE


def test_like_takes_over_missing_keys(file):
    roles = catalogue(file('[strict]\nlike = "critic"\nhears = 2\n[stricter]\nlike = "strict"\nmax_tokens = 9'))
    same = {"prompt", "gives", "does"}
    assert roles["strict"].model_dump(include=same) == CATALOGUE["critic"].model_dump(include=same)
    assert (roles["strict"].hears, roles["stricter"].hears, roles["stricter"].max_tokens) == (2, 2, 9)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[x]\ndoes = "y"\npromt = "z"', "role 'x' has no key 'promt'; did you mean 'prompt'?"),
        ('[x]\nprompt = "z"', "role 'x' lacks the key 'does'"),
        ('[x]\ndoes = "y"\nhears = -1', "role 'x', key 'hears': .*greater than or equal to 0, not -1"),
        ('[x]\ndoes = "y"\nact = "dance"', "role 'x', key 'act': .*'ask'.*not 'dance'"),
        ('[x]\ndoes = "y"\ntools = "python"', "role 'x', key 'tools'"),
        ('[x]\ndoes = "y"\nname = "z"', "role 'x', key 'name': .*leave it out"),
        ('["X y"]\ndoes = "y"', "role 'X y': a name is small letters"),
        ('x = "critic"', r"role 'x' must be a table: write \[x\]"),
        ('[x]\nlike = "nobody"', "role 'x', key 'like': no role before it is called 'nobody'"),
        ("[x]\nlike = []", "role 'x', key 'like': no role"),
        ('[x]\ndoes = "y"\ngives = "verdict"', "role 'x': the prompt of a verdict must ask for"),
        ('[x]\ndoes = "y"\nmarked = true', "role 'x': marked needs"),
        ('[x]\ndoes = "y"\nact = "majority"\nprompt = "z"', "role 'x': act 'majority' asks no model"),
        ('[x]\ndoes = "y"\nact = "program"\ngives = "verdict"', "role 'x': a program gives"),
        ("[x", "is no TOML"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_an_invalid_file_raises_with_file_role_and_key(file, text, sentence):
    path = file(text)
    with pytest.raises(GraphError, match=sentence) as caught:
        catalogue(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(GraphError, match=r"no file of roles at .*none\.toml"):
        catalogue(tmp_path / "none.toml")
    with pytest.raises(GraphError, match="can't be read"):
        catalogue(tmp_path)


VALUES = (
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=5)
    | st.integers()
    | st.booleans()
    | st.lists(st.just("python"), max_size=2)
)


@law
@given(st.dictionaries(st.sampled_from([*Role.model_fields, "like", "x"]), VALUES))
def test_any_table_is_a_role_or_a_graph_error(tmp_path_factory, table):
    import tomli_w

    path = tmp_path_factory.mktemp("roles") / "r.toml"
    path.write_text(tomli_w.dumps({"r": table}), encoding="utf-8")
    try:
        assert catalogue(path)["r"].name == "r"
    except GraphError as error:
        assert re.search(r"r\.toml: role 'r'", str(error))
        assert "\n" not in str(error)


def test_a_role_from_python_is_checked_too():
    with pytest.raises(ValidationError, match="VERDICT"):
        Role(name="x", does="y", gives="verdict")


def test_the_catalogue_is_a_file_of_the_same_form():
    path = Path(__file__).parents[3] / "mas" / "graph" / "catalogue.toml"
    assert list(tomllib.loads(path.read_text("utf-8"))) == list(CATALOGUE)
    assert catalogue(path) == CATALOGUE
