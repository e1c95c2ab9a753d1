"""The guard's data file: what its entries must have, whatever they match."""

import re

import pytest

from edgewise.experience.guard import private_checks
from edgewise.experience.guard.patterns import compile_injection_rules, expand, get_words, read_tables

INJECTION, PRIVATE = read_tables()["injection"], read_tables()["private"]


def test_every_entry_names_its_source():
    assert all(entry["source"].strip() for entry in (*INJECTION, *PRIVATE))


def test_injection_entries_compile_to_one_rule_each():
    marks, orders = compile_injection_rules()
    assert [rule.reason for rule in (*marks, *orders)] == [entry["reason"] for entry in INJECTION]
    assert all(entry["gaps"] in ("exact", "words", "letters") for entry in INJECTION)


@pytest.mark.parametrize("entry", PRIVATE, ids=lambda entry: entry["source"])
def test_private_entries_have_one_check_that_exists(entry):
    assert re.compile(expand(entry["pattern"])).groupindex.keys() <= {"it", "sep"}
    assert not {"check", "digits"} <= entry.keys()
    assert callable(getattr(private_checks, entry.get("check", "has_digits")))


def test_pieces_are_used_and_put_in():
    used = set(re.findall(r"\{\{(\w+)\}\}", str(read_tables())))
    assert used == read_tables()["pieces"].keys()
    assert "{{" not in "".join(expand(pattern) for entry in INJECTION for pattern in entry["patterns"])


def test_word_lists_are_joined():
    assert get_words("stop", "stop_more") == get_words("stop") | get_words("stop_more")
    assert {"the", "would"} <= get_words("stop", "stop_more")
