"""The policy: what can be loaded and how, and weights that come back as they were saved."""

import errno
import json
from pathlib import Path

import pytest
import torch

from edgewise.learner.attention.logprobs import compute_logps
from edgewise.learner.policy import precision
from edgewise.learner.policy.policy import Lora, Policy
from edgewise.toolkit.errors import ConfigError, DiskFull, UnknownModel
from edgewise.toolkit.types import Message
from tests.support.learner import exact, tiny

CHAT = (Message("system", "Be brief."), Message("user", "hi"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save_model(tmp_path / "model")


def take_step(policy: Policy) -> Policy:
    """After one step of its optimizer."""
    torch.manual_seed(1)
    for parameter in policy.parameters():
        parameter.grad = torch.randn_like(parameter)
    policy.create_optimizer(lr=0.01).step()
    return policy


def values(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return compute_logps(policy, exact.batch((5, 3), ((4, 2), (6,)), vocab=250))[0]


def test_directory_loads_as_a_model(folder: Path) -> None:
    policy = Policy.load(str(folder), dtype="float32")
    assert policy.context_length == 512
    assert policy.stop_ids == {257}
    assert policy.summary.startswith(f"cpu, {torch.get_num_threads()} threads, float32, 0.0 M trained")
    assert policy.decode(policy.encode(CHAT)) == "s:Be brief.u:hia:"
    assert policy.encode(CHAT)[0] == 256


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_saved_weights_load_unchanged(folder: Path, tmp_path: Path, dtype: str) -> None:
    first = take_step(Policy.load(str(folder), dtype=dtype))
    first.save(tmp_path / "saved")
    again = Policy.load(str(tmp_path / "saved"), dtype=dtype)
    assert not torch.equal(values(first), values(Policy.load(str(folder), dtype=dtype)))
    assert torch.equal(values(first), values(again))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert again.encode(CHAT) == first.encode(CHAT)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft
def test_peft_loads_a_saved_adapter(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    first = take_step(Policy.load(str(folder), dtype="float32", lora=Lora(rank=2)))
    first.save(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2
    model = PeftModel.from_pretrained(tiny.model(), str(tmp_path / "adapter")).eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, first.model(input_ids=ids).logits, atol=1e-6)


@pytest.mark.parametrize("lora", (None, Lora(rank=2)))
def test_reference_keeps_the_initial_weights(folder: Path, lora: Lora | None) -> None:
    policy = Policy.load(str(folder), dtype="float32", lora=lora).with_reference()
    before = values(policy)
    take_step(policy)
    now = values(policy)
    with policy.reference():
        assert torch.equal(values(policy), before)
    assert torch.equal(values(policy), now)
    assert not torch.equal(now, before)


def test_reference_without_a_kept_copy_raises_config_error(folder: Path) -> None:
    policy = Policy.load(str(folder), dtype="float32")
    with pytest.raises(ConfigError, match="with_reference"), policy.reference():
        pass


def test_masters_keep_changes_below_bfloat16_precision(folder: Path) -> None:
    policy = Policy.load(str(folder), dtype="bfloat16")
    start = [p.detach().clone() for p in policy.parameters()]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 1e-5
    policy.update_copies()
    assert all(p.dtype == torch.bfloat16 for p in policy.model.parameters())
    for a, b in zip(policy.parameters(), start, strict=True):
        assert (a - b).abs().max() > 5e-6
    assert "bfloat16 with float32 masters" in policy.summary


def test_same_seed_gives_the_same_adapter(folder: Path) -> None:
    a, b, c = (Policy.load(str(folder), lora=Lora(rank=2, seed=seed)) for seed in (0, 0, 1))
    assert exact.max_difference(a.parameters(), b.parameters()) == 0
    assert exact.max_difference(a.parameters(), c.parameters()) > 0


def test_missing_chat_template_raises_config_error(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    policy = Policy.load(str(folder), dtype="float32")
    with pytest.raises(ConfigError, match="has no chat template"):
        policy.encode(CHAT)


def test_error_of_the_chat_template_raises_config_error() -> None:
    policy = exact.policy()
    policy.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ConfigError, match="refuses these messages: no system role"):
        policy.encode(CHAT)


def test_end_token_of_the_chat_template_is_a_stop_id() -> None:
    assert 257 in exact.policy().stop_ids


@pytest.mark.parametrize(
    ("name", "message"),
    (
        ("nowhere/at-all", "the hub gave no model"),
        ("./nowhere", "it is no directory here, and no embedded model"),
        ("nowhere.gguf", "There is no file"),
    ),
)
def test_missing_model_raises_unknown_model(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownModel, match=message):
        Policy.load(name)


def test_directory_without_a_model_raises_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="holds no causal model"):
        Policy.load(str(tmp_path))


def test_unknown_device_or_precision_raises_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no device 'tpu9'"):
        Policy.load(str(folder), device="tpu9")
    with pytest.raises(ConfigError, match="no precision"):
        Policy.load(str(folder), dtype="int4")


@pytest.mark.parametrize("amx, avx, chosen", ((False, False, torch.float32), (False, True, torch.bfloat16)))
def test_auto_dtype_is_bfloat16_on_cpus_that_multiply_it(
    amx: bool, avx: bool, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    assert precision.select_dtype("auto", torch.device("cpu")) == chosen


def test_full_disk_while_saving_raises_disk_full(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.load(str(folder), dtype="float32")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(policy.model, "save_pretrained", full)
    with pytest.raises(DiskFull, match="disk is full"):
        policy.save(tmp_path / "saved")


@pytest.mark.model
def test_embedded_model_answers() -> None:
    policy = Policy.load("smollm2-135m")
    ids = torch.tensor([policy.encode((Message("user", "What is the capital of France?"),))])
    ids_of_reply = policy.model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
    assert "Paris" in policy.decode(ids_of_reply[0, ids.shape[1] :].tolist())
    assert policy.stop_ids == {2}
