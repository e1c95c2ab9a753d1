"""Settings: layers, `--set`, sentences for wrong ones, and what may change when a run is taken up again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.experience.config import ExperienceConfig
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.budget.prices import Price
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import Config, list_changes, load_config, parse_settings, resolve_config, save_config
from edgewise.toolkit.types import Sampling


def test_later_layers_win_and_none_does_not_count():
    file = {"model": "openai/file", "seed": 1, "usd": 2.0}
    line = {"model": None, "seed": 3, "usd": None}
    config = resolve_config(Config, file, line)
    assert (config.model, config.seed, config.usd) == ("openai/file", 3, 2.0)
    assert config.temperature == Config().temperature


@pytest.mark.parametrize(
    ("pair", "key", "value"),
    [
        ("epochs=2", "epochs", 2),
        ("temperature=0.25", "temperature", 0.25),
        ("refill=false", "refill", False),
        ('prices={"*" = [1, 2.5]}', "prices", {"*": [1, 2.5]}),
        ("numbers=[1, 2]", "numbers", [1, 2]),
        ('model="quoted/name"', "model", "quoted/name"),
        ("model=http://host:1/v1#qwen", "model", "http://host:1/v1#qwen"),
        ("place=after", "place", "after"),
        ("model=a=b", "model", "a=b"),
        (" epochs = 2", "epochs", 2),
        ("judge=", "judge", ""),
    ],
)
def test_set_parses_toml_or_takes_a_plain_word(pair, key, value):
    assert parse_settings([pair]) == {key: value}


def test_last_of_repeated_settings_wins():
    assert parse_settings(["seed=1", "epochs=2", "seed=3"]) == {"seed": 3, "epochs": 2}


@pytest.mark.parametrize("pair", ["epochs", "=3", " =3", ""])
def test_setting_without_key_or_sign_is_refused(pair):
    with pytest.raises(ConfigError, match="--set takes key=value"):
        parse_settings([pair])


@given(st.text())
def test_set_parses_or_refuses_any_text(text):
    try:
        assert len(parse_settings([f"key={text}"])) == 1
    except ConfigError:
        pytest.fail("a pair with a key and a sign always has a value")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epoch": 2}, "There is no setting 'epoch'; did you mean 'epochs'?"),
        ({"zzz": 2}, "There is no setting 'zzz'; there is allocate, alpha, anchors, attempts"),
        ({"prices.x": [1, 2]}, "There is no setting 'prices.x'; did you mean 'prices'?"),
        ({"epochs": "many"}, "Setting 'epochs': Input should be a valid integer.* \\(got 'many'\\)"),
        ({"epochs": 0}, "Setting 'epochs': .* greater than or equal to 1"),
        ({"calling": "automatic"}, "Setting 'calling': Input should be 'auto', 'native' or 'text'"),
        ({"place": "left"}, "Setting 'place': Input should be 'system', 'before', 'after' or 'split'"),
        ({"temperature": -1}, "Setting 'temperature'"),
        ({"eval_top_p": 1.5}, "Setting 'eval_top_p'"),
        ({"prices": {"a/b": [1]}}, "Setting 'prices.a/b"),
        ({"model": 3}, "Setting 'model': Input should be a valid string \\(got 3\\)"),
    ],
)
def test_wrong_setting_is_named_with_a_hint(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        resolve_config(ExperienceConfig, settings)


def test_limits_prices_and_sampling_have_their_types():
    config = Config(usd=1.5, calls=9, prices={"*": (1, 2), "openai/x": (1, 2, 0.5)}, temperature=0.9)
    assert config.limits == Limits(usd=1.5, calls=9)
    assert config.price_list == {"*": Price(1, 2), "openai/x": Price(1, 2, 0.5)}
    assert config.rollout_sampling == Sampling(0.9, None, 16_384)
    assert config.eval_sampling == Sampling(0.3, 0.95, 16_384)
    assert config.deployment_settings() == {"temperature": 0.3, "top_p": 0.95, "max_tokens": 16_384}


@pytest.mark.parametrize("limit", ["usd", "tokens", "calls", "minutes"])
def test_limit_of_zero_is_refused(limit):
    with pytest.raises(ConfigError, match=f"{limit}=0"):
        _ = resolve_config(Config, {limit: 0}).limits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"usd": 1.5, "prices": {"*": [1.0, 2.0], "openai/x": [1.0, 2.0, 0.5]}},
        {"model": 'http://host/v1#na"me', "judge": "größe/模型", "epochs": 1, "refill": False},
    ],
)
def test_saved_config_loads_unchanged(settings, tmp_path):
    config = resolve_config(ExperienceConfig, settings)
    save_config(config, tmp_path / "config.toml")
    assert load_config(ExperienceConfig, tmp_path / "config.toml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"epochs = ", "is not readable TOML"),
        (b"\xff\xfe", "is not readable TOML"),
        (b"future = 1", r"config\.toml: There is no setting 'future'"),
    ],
)
def test_damaged_config_file_is_named(content, sentence, tmp_path):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        load_config(ExperienceConfig, tmp_path / "config.toml")


def test_only_settings_without_effect_on_replies_may_change():
    assert set(ExperienceConfig.model_fields) >= Config.resumable
    before = ExperienceConfig()
    free = {"usd": 1.0, "tokens": 9, "calls": 9, "minutes": 9.0, "prices": {"*": (1.0, 2.0)}}
    after = resolve_config(ExperienceConfig, free, {"concurrency": 1, "timeout": 1.0, "attempts": 1})
    assert list_changes(before, after) == []
    bound = resolve_config(ExperienceConfig, {"seed": 1, "model": "a/b", "epochs": 1, "usd": 1.0})
    assert list_changes(before, bound) == ["model", "seed", "epochs"]
