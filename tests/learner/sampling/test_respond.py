import pytest

from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.respond import MAX_TOKENS, answer, cut_at_stop
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.rollout.agent import Agent, run_rollout
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import BilledTo, Example, Message, Request, Sampling, Tool
from tests.support.learner import tiny


@pytest.fixture(scope="module")
def policy():
    return Policy.from_model(tiny.model(), tiny.tokenizer(), name="tiny")


def request(text="hello", **settings):
    sampling = Sampling(**{"max_tokens": 12, "seed": 1, **settings})
    return Request("torch/tiny", (Message("user", text),), sampling)


def test_a_reply_has_its_tokens_text_and_usage(policy):
    requests = [request(seed=1), request(seed=2), request("good day", seed=1)]
    for ask, reply in zip(requests, answer(policy, requests), strict=True):
        tokens = reply.tokens
        assert tokens.prompt_ids == policy.encode(ask.messages)
        assert reply.message == Message("assistant", policy.decode(tokens.completion_ids))
        assert len(tokens.completion_ids) == len(tokens.logprobs) == reply.usage.output
        assert reply.usage.input == len(tokens.prompt_ids)
        assert (reply.stop, reply.model, reply.error) == ("length", "torch/tiny", "")
        assert all(value <= 0 for value in tokens.logprobs)


def test_stop_token_is_in_the_tokens_and_not_in_the_text(policy):
    replies = answer(policy, [request(seed=i, max_tokens=400) for i in range(20)])
    ended = [reply for reply in replies if reply.stop == "stop"]
    assert ended
    for reply in ended:
        assert reply.tokens.completion_ids[-1] == 257
        assert "</s>" not in reply.message.content


def test_text_ends_before_a_stop_string(policy):
    (whole,) = answer(policy, [request(max_tokens=40, temperature=0.0)])
    text = whole.message.content
    (cut,) = answer(policy, [request(max_tokens=40, temperature=0.0, stop=(text[20:22],))])
    assert cut.stop == "stop"
    assert cut.message.content == text[: text.index(text[20:22])]
    assert cut.tokens.completion_ids == whole.tokens.completion_ids[: len(cut.tokens.completion_ids)]


@pytest.mark.parametrize(("stop", "rest"), [((), "abcd"), (("x",), "abcd"), (("c", "bc"), "a"), (("a",), "")])
def test_text_is_cut_at_the_first_of_several_strings(stop, rest):
    assert cut_at_stop("abcd", stop) == rest


def test_prompt_beyond_the_context_is_refused_alone(policy):
    first, long, last = answer(policy, [request(), request("x" * 600), request()])
    assert long.stop == "refused"
    assert "512 at most" in long.error
    assert long.usage.total == 0
    assert first.tokens == last.tokens


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"tools": (Tool("add", "adds", {}),)}, "takes no tools"), ({"is_embedding": True}, "gives no vectors")],
)
def test_tools_and_embeddings_are_refused(policy, changes, sentence):
    ask = Request("torch/tiny", (Message("user", "hello"),), Sampling(max_tokens=3), **changes)
    (reply,) = answer(policy, [ask])
    assert reply.stop == "refused"
    assert sentence in reply.error


def test_agent_falls_back_to_tool_calls_in_text(policy):
    agent = Agent("torch/tiny", Sampling(max_tokens=5), (FunctionTool(Tool("add", "adds", {}), lambda: 1),))
    plan = run_rollout(agent, Example("a", ()), (Message("user", "1 + 1?"),), sample=0, seed=3)
    call = next(plan)
    assert call.tools
    call = plan.send(answer(policy, [call])[0])
    assert not call.tools
    assert "<tool>" in call.messages[0].content


def test_messages_refused_by_the_template_are_refused(policy):
    template = policy.tokenizer.chat_template
    policy.tokenizer.chat_template = "{{ raise_exception('only users') }}"
    try:
        (reply,) = answer(policy, [request()])
    finally:
        policy.tokenizer.chat_template = template
    assert reply.stop == "refused"
    assert "only users" in reply.error


def test_a_model_without_a_template_is_an_error():
    bare = Policy.from_model(tiny.model(), tiny.tokenizer(), name="tiny")
    bare.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        answer(bare, [request()])


def test_samples_without_a_seed_differ_and_repeat(policy):
    requests = [
        Request(
            "torch/tiny", (Message("user", "hello"),), Sampling(max_tokens=9), sample=i, payer=BilledTo(example="a")
        )
        for i in range(4)
    ]
    replies = [reply.tokens.completion_ids for reply in answer(policy, requests)]
    assert len(set(replies)) == 4
    assert replies == [reply.tokens.completion_ids for reply in answer(policy, requests)]


def test_request_without_max_tokens_has_a_limit():
    patient = Policy.from_model(tiny.model(max_position_embeddings=2048), tiny.tokenizer(), name="tiny")
    patient.stop_ids = frozenset()
    (reply,) = answer(patient, [request(max_tokens=None)])
    assert reply.usage.output == MAX_TOKENS
