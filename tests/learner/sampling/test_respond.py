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
    asks = [request(seed=1), request(seed=2), request("good day", seed=1)]
    for ask, reply in zip(asks, answer(policy, asks), strict=True):
        found = reply.tokens
        assert found.prompt_ids == policy.encode(ask.messages)
        assert reply.message == Message("assistant", policy.decode(found.completion_ids))
        assert len(found.completion_ids) == len(found.logprobs) == reply.usage.output
        assert reply.usage.input == len(found.prompt_ids)
        assert (reply.stop, reply.model, reply.error) == ("length", "torch/tiny", "")
        assert all(value <= 0 for value in found.logprobs)


def test_the_end_of_a_reply_is_in_its_tokens_and_not_in_its_text(policy):
    replies = answer(policy, [request(seed=i, max_tokens=400) for i in range(20)])
    ended = [reply for reply in replies if reply.stop == "stop"]
    assert ended
    for reply in ended:
        assert reply.tokens.completion_ids[-1] == 257
        assert "</s>" not in reply.message.content


def test_the_text_ends_before_a_stop_string_and_the_tokens_with_it(policy):
    (whole,) = answer(policy, [request(max_tokens=40, temperature=0.0)])
    text = whole.message.content
    (cut,) = answer(policy, [request(max_tokens=40, temperature=0.0, stop=(text[20:22],))])
    assert cut.stop == "stop"
    assert cut.message.content == text[: text.index(text[20:22])]
    assert cut.tokens.completion_ids == whole.tokens.completion_ids[: len(cut.tokens.completion_ids)]


@pytest.mark.parametrize(("stop", "left"), [((), "abcd"), (("x",), "abcd"), (("c", "bc"), "a"), (("a",), "")])
def test_text_is_cut_at_the_first_of_several_strings(stop, left):
    assert cut_at_stop("abcd", stop) == left


def test_a_prompt_longer_than_the_context_is_refused_and_the_others_are_answered(policy):
    first, long, last = answer(policy, [request(), request("x" * 600), request()])
    assert long.stop == "refused"
    assert "512 at most" in long.error
    assert long.usage.total == 0
    assert first.tokens == last.tokens


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"tools": (Tool("add", "adds", {}),)}, "takes no tools"), ({"is_embedding": True}, "gives no vectors")],
)
def test_what_weights_do_not_do_is_refused_in_a_sentence(policy, changes, sentence):
    ask = Request("torch/tiny", (Message("user", "hello"),), Sampling(max_tokens=3), **changes)
    (reply,) = answer(policy, [ask])
    assert reply.stop == "refused"
    assert sentence in reply.error


def test_an_agent_with_tools_goes_on_in_words(policy):
    agent = Agent("torch/tiny", Sampling(max_tokens=5), (FunctionTool(Tool("add", "adds", {}), lambda: 1),))
    plan = run_rollout(agent, Example("a", ()), (Message("user", "1 + 1?"),), sample=0, seed=3)
    asked = next(plan)
    assert asked.tools
    asked = plan.send(answer(policy, [asked])[0])
    assert not asked.tools
    assert "<tool>" in asked.messages[0].content


def test_messages_that_the_template_refuses_are_refused(policy):
    kept = policy.tokenizer.chat_template
    policy.tokenizer.chat_template = "{{ raise_exception('only users') }}"
    try:
        (reply,) = answer(policy, [request()])
    finally:
        policy.tokenizer.chat_template = kept
    assert reply.stop == "refused"
    assert "only users" in reply.error


def test_a_model_without_a_template_is_an_error():
    bare = Policy.from_model(tiny.model(), tiny.tokenizer(), name="tiny")
    bare.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        answer(bare, [request()])


def test_samples_without_a_seed_differ_and_repeat(policy):
    asks = [
        Request(
            "torch/tiny",
            (Message("user", "hello"),),
            Sampling(max_tokens=9),
            sample=i,
            payer=BilledTo(example="a"),
        )
        for i in range(4)
    ]
    replies = [reply.tokens.completion_ids for reply in answer(policy, asks)]
    assert len(set(replies)) == 4
    assert replies == [reply.tokens.completion_ids for reply in answer(policy, asks)]


def test_a_request_that_does_not_say_how_long_has_a_limit():
    patient = Policy.from_model(tiny.model(max_position_embeddings=2048), tiny.tokenizer(), name="tiny")
    patient.stop_ids = frozenset()
    (reply,) = answer(patient, [request(max_tokens=None)])
    assert reply.usage.output == MAX_TOKENS
