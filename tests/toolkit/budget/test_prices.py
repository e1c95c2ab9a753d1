import os
import subprocess
import sys

import pytest

from edgewise.toolkit.budget.prices import Price, find_price
from edgewise.toolkit.errors import ConfigError


@pytest.mark.parametrize("model", ["local/smollm2-135m", "scripted/a:b", "torch/gpt2"])
def test_local_models_stay_free_under_a_price_for_all_models(model):
    assert find_price(model, {"*": Price(1, 2)}) == Price(0, 0)


@pytest.mark.parametrize("model", ["http://localhost:1/v1#gpt-4o-mini", "openai/no-such-model", "nobody/gpt-4o-mini"])
def test_an_unknown_price_is_none_and_not_zero(model):
    assert find_price(model) is None


def test_the_price_list_is_read_in_exact_dollars_per_million(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert find_price("openai/gpt-4o-mini") == Price(0.15, 0.6, 0.075)


def test_openai_names_at_another_base_url_have_no_price(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert find_price("openai/gpt-4o-mini") is None


def test_overrides_come_first_and_by_name_before_for_all():
    overrides = {"*": Price(9, 9), "openai/gpt-4o-mini": Price(1, 2)}
    assert find_price("openai/gpt-4o-mini", overrides) == Price(1, 2)
    assert find_price("http://host/v1#x", overrides) == Price(9, 9)


def test_a_price_is_read_from_the_command_line():
    assert Price.parse("0.15, 0.60") == Price(0.15, 0.6)
    assert Price.parse("1,2,0.5") == Price(1, 2, 0.5)


@pytest.mark.parametrize("text", ["", "1", "a,b", "1,2,3,4", "-1,2", "nan,1", "inf,1"])
def test_a_wrong_price_is_refused_with_a_sentence(text):
    with pytest.raises(ConfigError):
        Price.parse(text)


def test_reading_a_price_does_not_import_litellm():
    code = (
        "import sys; from edgewise.toolkit.budget.prices import find_price; find_price('openai/gpt-4o'); "
        "print('litellm' in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if k != "OPENAI_BASE_URL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "False"
