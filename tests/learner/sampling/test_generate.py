from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from edgewise.learner.attention import kv_cache
from edgewise.learner.hardware.weight_packing import pack_weights
from edgewise.learner.policy.policy import Lora, Policy
from edgewise.learner.sampling import generate as sampling
from edgewise.learner.sampling.generate import CompletionRequest, sample, sample_tokens
from edgewise.toolkit.errors import OutOfMemory
from tests.support.learner import tiny

SMALL = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "eos_token_id": 257,
    "bos_token_id": 256,
    "pad_token_id": 257,
}
WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen2 with a window": Qwen2Config(**SMALL, use_sliding_window=True, **WINDOW),
    "qwen3": Qwen3Config(**SMALL),
    "mistral": MistralConfig(**SMALL, sliding_window=6),
    "gemma2": Gemma2Config(**SMALL, **WINDOW, query_pre_attn_scalar=8, attn_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(**SMALL, **WINDOW, query_pre_attn_scalar=8),
    "gpt-oss": GptOssConfig(**SMALL, **WINDOW, **EXPERTS),
}


def policy(config=CONFIGS["llama"], seed=0, scale=3.0, **settings):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)  # so that tokens differ in how likely they are
    return Policy.from_model(model, tiny.tokenizer(), **settings)


@pytest.fixture(scope="module")
def llama():
    return policy()


def prompt(length, seed=0):
    return tuple(np.random.default_rng((length, seed)).integers(0, 256, length).tolist())


def plain(model, request, ids):
    """Log-probabilities of a reply by one forward of the whole, in the model's own attention."""
    with torch.no_grad():
        logits = model.model(torch.tensor([[*request.prompt, *ids]])).logits[0, len(request.prompt) - 1 : -1]
    logp = (logits.double() / (request.temperature or 1.0)).log_softmax(-1)
    return logp.gather(1, torch.tensor(ids)[:, None])[:, 0].numpy()


def fits(observed, expected):
    """Whether counts are as expected, by a chi-square test; what is rare is counted together."""
    order = np.argsort(-expected)
    observed, expected = observed[order], expected[order]
    common = int((expected >= 5).sum())
    assert common > 10
    rest = [(observed[:common], expected[:common])]
    if expected[common:].sum() >= 5:
        rest.append((observed[common:].sum(keepdims=True), expected[common:].sum(keepdims=True)))
    counts, target = (np.concatenate(part) for part in zip(*rest, strict=True))
    return chisquare(counts, target * counts.sum() / target.sum()).pvalue > 1e-3


def mixed_requests():
    """Prompts of several lengths, groups of several sizes, replies of several lengths."""
    requests = []
    for length, rows in ((1, 3), (5, 1), (6, 4), (7, 2), (40, 3), (90, 2)):
        requests += [
            CompletionRequest(prompt(length), 5 + 9 * i, 0.7 + 0.2 * i, seed=100 * length + i) for i in range(rows)
        ]
    return requests


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_are_those_of_a_plain_forward(name):
    model = policy(CONFIGS[name])
    requests = mixed_requests()
    for request, completion in zip(requests, sample(model, requests), strict=True):
        assert completion.logprobs == pytest.approx(plain(model, request, completion.ids), abs=1e-5)


def test_attention_of_the_model_is_restored(llama):
    before = llama.model.config._attn_implementation
    sample(llama, [CompletionRequest(prompt(3), 2)])
    assert llama.model.config._attn_implementation == before


def test_completion_does_not_depend_on_the_batch(llama):
    requests = mixed_requests()
    together = sample(llama, requests)
    for request, completion in zip(requests, together, strict=True):
        assert sample(llama, [request])[0].ids == completion.ids
    backwards = sample(llama, requests[::-1])[::-1]
    assert [d.ids for d in backwards] == [d.ids for d in together]


def test_another_seed_gives_another_completion(llama):
    replies = {d.ids for d in sample(llama, [CompletionRequest(prompt(8), 20, seed=i) for i in range(16)])}
    assert len(replies) == 16


def test_first_tokens_do_not_depend_on_max_tokens(llama):
    short, long = sample(llama, [CompletionRequest(prompt(8), 5, seed=3)]) + sample(
        llama, [CompletionRequest(prompt(8), 50, seed=3)]
    )
    assert long.ids[: len(short.ids)] == short.ids


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_token_frequencies_match_their_probabilities(llama, temperature):
    requests = [CompletionRequest(prompt(9), 1, temperature, seed=i) for i in range(4000)]
    with torch.no_grad():
        logits = llama.model(torch.tensor([prompt(9)])).logits[0, -1].double()
    share = (logits / temperature).softmax(-1).numpy()
    counts = np.bincount([d.ids[0] for d in sample(llama, requests)], minlength=len(share))
    assert fits(counts, share * len(requests))


def test_sequence_frequencies_match_their_probabilities():
    model = policy(LlamaConfig(**{**SMALL, "vocab_size": 4, "eos_token_id": 3, "bos_token_id": 0, "pad_token_id": 3}))
    model.stop_ids = frozenset()
    completions = sample(model, [CompletionRequest((0, 1, 2), 3, seed=i) for i in range(4000)])
    counts = Counter(d.ids for d in completions)
    share = {d.ids: float(np.exp(sum(d.logprobs))) for d in completions}
    assert fits(np.array([counts[ids] for ids in share]), 4000 * np.array(list(share.values())))


def test_top_p_cuts_tokens_and_not_log_probs():
    shares = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).repeat(2000, 1)
    uniform = torch.tensor(np.random.default_rng(0).random(2000))
    ids, logp = sample_tokens(shares.log(), torch.ones(2000, 1), torch.full((2000, 1), 0.75), uniform)
    counts = np.bincount(ids.numpy(), minlength=4)
    assert counts[2] == counts[3] == 0
    assert counts[0] / 2000 == pytest.approx(0.625, abs=0.04)
    assert logp.exp().numpy() == pytest.approx(shares[0][ids].numpy(), rel=1e-5)


@pytest.mark.parametrize("size", [3, 128, 129, 1000])
def test_extreme_random_numbers_pick_possible_tokens(size):
    logits = torch.full((1, size), -torch.inf)
    logits[0, : size - 1] = torch.randn(size - 1, generator=torch.Generator().manual_seed(0))
    for number in (0.0, np.nextafter(1.0, 0.0)):
        ids, logp = sample_tokens(logits, torch.ones(1, 1), torch.ones(1, 1), torch.tensor([number]))
        assert torch.isfinite(logp).all()
        assert ids[0] == (0 if number == 0 else size - 2)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_greedy_equals_transformers_generate(name):
    model = policy(CONFIGS[name])
    for length in (4, 30):
        (completion,) = sample(model, [CompletionRequest(prompt(length), 24, 0.0)])
        ids = torch.tensor([prompt(length)])
        out = model.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        assert list(completion.ids) == out[0, length:].tolist()
        assert completion.logprobs == pytest.approx(
            plain(model, CompletionRequest(prompt(length), 1), completion.ids), abs=1e-5
        )


def test_a_stop_token_ends_a_reply_and_belongs_to_it(llama):
    llama.stop_ids = frozenset(range(0, 258, 8))
    try:
        for completion in sample(llama, [CompletionRequest(prompt(5), 200, seed=i) for i in range(20)]):
            assert completion.stop == "stop"
            assert completion.ids[-1] % 8 == 0
            assert all(token % 8 for token in completion.ids[:-1])
    finally:
        llama.stop_ids = frozenset({257})


def test_a_stop_string_ends_a_reply_once_it_is_complete(llama):
    (whole,) = sample(llama, [CompletionRequest(prompt(5), 60, seed=1)])
    text = [llama.tokenizer.decode(whole.ids[: i + 1]) for i in range(len(whole.ids))]
    target = llama.tokenizer.decode(whole.ids[30:32])
    first = next(i for i, part in enumerate(text) if target in part)
    (cut,) = sample(llama, [CompletionRequest(prompt(5), 60, seed=1, stop=("never there", target))])
    assert cut.stop == "stop"
    assert cut.ids == whole.ids[: first + 1]


def test_a_special_token_can_be_a_stop_string(llama):
    llama.stop_ids = frozenset()
    try:
        completions = sample(llama, [CompletionRequest(prompt(5), 250, 3.0, seed=i, stop=("<s>",)) for i in range(8)])
    finally:
        llama.stop_ids = frozenset({257})
    ended = [d for d in completions if d.stop == "stop"]
    assert ended
    assert all(d.ids[-1] == 256 for d in ended)


def test_a_reply_ends_at_its_limit_or_with_the_context(llama):
    short, full = sample(llama, [CompletionRequest(prompt(5), 7), CompletionRequest(prompt(250), 50)])
    assert (len(short.ids), short.stop) == (7, "length")
    assert (len(full.ids), full.stop) == (6, "length")


@pytest.mark.parametrize("length", [0, 256, 300])
def test_a_prompt_that_does_not_fit_is_an_error(llama, length):
    with pytest.raises(ValueError, match="1 to 255 tokens"):
        sample(llama, [CompletionRequest(prompt(length), 5)])


def test_no_requests_give_no_completions(llama):
    assert sample(llama, []) == []


def test_waves_and_chunks_change_no_completion(llama, monkeypatch):
    requests = mixed_requests()
    whole = sample(llama, requests)
    monkeypatch.setattr(sampling, "WAVE_TOKENS", 150)
    monkeypatch.setattr(sampling, "PREFILL_TOKENS", 12)
    monkeypatch.setattr(kv_cache, "INITIAL_ROOM", 2)
    assert [d.ids for d in sample(llama, requests)] == [d.ids for d in whole]


def test_short_memory_makes_waves_smaller(llama, monkeypatch):
    requests = mixed_requests()
    whole, forward, rows = sample(llama, requests), sampling.decode, []

    def short(model, cache, ids):
        rows.append(len(ids))
        if len(ids) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(model, cache, ids)

    monkeypatch.setattr(sampling, "decode", short)
    assert [d.ids for d in sample(llama, requests)] == [d.ids for d in whole]
    assert max(rows) > 3
    monkeypatch.setattr(sampling, "prefill", lambda *_: short(None, None, range(9)))
    with pytest.raises(OutOfMemory, match="one reply: use LoRA"):
        sample(llama, requests)


def test_a_prompt_is_encoded_once_for_its_group(llama):
    tokens = []
    hook = llama.model.model.embed_tokens.register_forward_hook(lambda _, args, __: tokens.append(args[0].numel()))
    sample(llama, [CompletionRequest(prompt(40), 4, seed=i) for i in range(8)])
    hook.remove()
    assert tokens == [40, 8, 8, 8]


def test_finished_rows_are_dropped(llama):
    rows = []
    hook = llama.model.model.embed_tokens.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[0]))
    sample(llama, [CompletionRequest(prompt(9), 20 if i else 2, seed=i) for i in range(2)])
    hook.remove()
    assert rows == [1, 2, *[1] * 18]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_adapter_is_sampled_with():
    model = policy(lora=Lora(rank=4))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3)
    request = CompletionRequest(prompt(12), 10, seed=5)
    (completion,) = sample(model, [request])
    assert completion.logprobs == pytest.approx(plain(model, request, completion.ids), abs=1e-5)
    with model.reference():
        (other,) = sample(model, [request])
    assert other.logprobs != completion.logprobs


def test_bfloat16_log_probs_are_near_a_plain_forward():
    model = policy(dtype=torch.bfloat16, scale=1.0)
    requests = mixed_requests()
    for request, completion in zip(requests, sample(model, requests), strict=True):
        assert completion.logprobs == pytest.approx(plain(model, request, completion.ids), abs=0.05)


@pytest.mark.model
def test_small_model_answers_a_question():
    model = Policy.load("smollm2-135m", dtype="float32")
    chat = tuple(
        model.tokenizer.encode("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    )
    (completion,) = sample(model, [CompletionRequest(chat, 24, 0.0)])
    assert "Paris" in model.decode(completion.ids)
    requests = [CompletionRequest(chat, 12, seed=i) for i in range(4)]
    for request, part in zip(requests, sample(model, requests), strict=True):
        assert part.logprobs == pytest.approx(plain(model, request, part.ids), abs=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_packed_weights_give_the_same_and_are_released(dtype):
    model = policy(CONFIGS["qwen2"], dtype=dtype)  # it has biases
    ids = torch.tensor([prompt(9)])
    with torch.inference_mode():
        plain_logits = model.model(ids).logits
        with pack_weights(model.model, 1):
            assert torch.equal(model.model(ids).logits, plain_logits)
        with pack_weights(model.model, 100):
            assert torch.allclose(model.model(ids).logits, plain_logits, rtol=1e-4, atol=1e-3)
        with torch.no_grad():
            model.model.model.layers[0].mlp.up_proj.weight.mul_(2)
        assert not torch.allclose(model.model(ids).logits, plain_logits, rtol=1e-2, atol=1e-2)
        with pack_weights(model.model, 100):
            again = model.model(ids).logits
        assert torch.allclose(again, model.model(ids).logits, rtol=1e-4, atol=1e-3)
