"""Short content hashes; versions on disk depend on them."""

from edgewise.toolkit.util.hashing import hash_json, hash_text


def test_digests_are_stable_between_versions() -> None:
    assert hash_text("é") == "4a99557e4033"
    assert hash_text("", 64) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_order_of_keys_does_not_change_a_digest() -> None:
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) == hash_text('{"a": 1, "b": [2]}')
