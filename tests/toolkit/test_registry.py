"""Every late-bound name exists."""

import pytest

from edgewise.toolkit import registry
from edgewise.toolkit.errors import ConfigError

TABLES = {name: table for name, table in vars(registry).items() if name.isupper() and isinstance(table, dict)}
TARGETS = [(name, key) for name, table in TABLES.items() for key in table]


@pytest.mark.parametrize(("name", "key"), TARGETS)
def test_every_name_resolves(name, key):
    assert registry.resolve(TABLES[name], key) is not None


def test_unknown_key_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="no 'grph' to be found by name; did you mean 'graph'"):
        registry.resolve(registry.WAYS, "grph")
