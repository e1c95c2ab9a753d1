import asyncio
import threading

import pytest

from edgewise.learner.hardware.compute_thread import submit_to_compute_thread
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling import torch_client as module
from edgewise.learner.sampling.torch_client import TorchClient, check
from edgewise.toolkit.budget.prices import find_price
from edgewise.toolkit.errors import ConfigError, ModelError
from edgewise.toolkit.model.middleware import Timeout, stack_middleware
from edgewise.toolkit.model.router import Router, connect
from edgewise.toolkit.model.router import check_model as check_name
from edgewise.toolkit.types import BilledTo, Message, Request, Sampling
from tests.support.learner import tiny


def policy(**changes):
    return Policy.from_model(tiny.model(**changes), tiny.tokenizer(), name="tiny")


def request(text="hello", sample=0, name="torch/tiny", **settings):
    sampling = Sampling(**{"max_tokens": 8, "seed": sample, **settings})
    return Request(name, (Message("user", text),), sampling, sample=sample, payer=BilledTo(example=text))


def ask_all(client, requests):
    """Replies to requests that are all asked at once; the client is closed."""

    async def go():
        try:
            return await asyncio.gather(*map(client.ask, requests), return_exceptions=True)
        finally:
            await client.aclose()

    return asyncio.run(go())


@pytest.fixture
def batches(monkeypatch):
    """The batches that were drawn."""
    recorded_batches = []
    original = module.answer

    def recorded(policy, requests, on_token):
        recorded_batches.append([(r.messages[0].content, r.sample) for r in requests])
        return original(policy, requests, on_token)

    monkeypatch.setattr(module, "answer", recorded)
    return recorded_batches


def test_requests_of_one_moment_are_one_ordered_batch(batches):
    requests = [request(text, i) for i in range(3) for text in ("b", "a")]
    replies = ask_all(stack_middleware(TorchClient(policy()), concurrency=1), requests)
    assert batches == [[("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)]]
    assert all(reply.tokens for reply in replies)


def test_replies_do_not_depend_on_the_order_of_requests():
    requests = [request(text, i) for i in range(3) for text in ("b", "a")]
    forward = ask_all(TorchClient(policy()), requests)
    backward = ask_all(TorchClient(policy()), requests[::-1])[::-1]
    assert [r.tokens for r in forward] == [r.tokens for r in backward]


def test_requests_during_a_batch_are_the_next_batch(batches):
    client = TorchClient(policy())

    async def go():
        first = asyncio.create_task(client.ask(request("a", max_tokens=200)))
        while not batches:
            await asyncio.sleep(0.001)
        others = [client.ask(request("b", i)) for i in range(2)]
        replies = await asyncio.gather(first, *others)
        await client.aclose()
        return replies

    assert all(reply.tokens for reply in asyncio.run(go()))
    assert batches == [[("a", 0)], [("b", 0), ("b", 1)]]


def test_cancelled_call_is_not_sampled(batches):
    client = TorchClient(policy())

    async def go():
        gone = asyncio.create_task(client.ask(request("gone")))
        stays = asyncio.create_task(client.ask(request("stays")))
        await asyncio.sleep(0)
        gone.cancel()
        await stays
        await client.aclose()

    asyncio.run(go())
    assert batches == [[("stays", 0)]]


def test_closing_stops_a_batch_at_the_next_token():
    client = TorchClient(policy(max_position_embeddings=100_000))
    client.policy.stop_ids = frozenset()

    async def go():
        long = asyncio.create_task(client.ask(request(max_tokens=90_000)))
        await asyncio.sleep(0.2)
        await client.aclose()
        with pytest.raises(asyncio.CancelledError):
            await long

    asyncio.run(asyncio.wait_for(go(), 20))
    assert submit_to_compute_thread(threading.current_thread).result(timeout=1).name.startswith("edgewise-torch")


def test_error_reaches_every_caller():
    bare = policy()
    bare.tokenizer.chat_template = None
    errors = ask_all(TorchClient(bare), [request("a"), request("b")])
    assert [type(error) for error in errors] == [ConfigError, ConfigError]


def test_a_batch_may_take_longer_than_a_timeout(batches):
    slow = TorchClient(policy())
    (reply,) = ask_all(Timeout(slow, 0.001), [request(max_tokens=100)])
    assert reply.tokens


def test_a_router_loads_a_directory_once(tmp_path, batches):
    name = f"torch/{tiny.save_model(tmp_path / 'tiny')}"
    check_name(name)
    replies = ask_all(Router(), [request("a", i, name) for i in range(3)])
    assert [reply.model for reply in replies] == [name] * 3
    assert len(batches) == 1


def test_weights_cost_nothing():
    price = find_price("torch/anything")
    assert (price.input, price.output) == (0, 0)


@pytest.mark.parametrize("name", ["smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "."])
def test_names_that_may_be_models_pass(name):
    check(name)


@pytest.mark.parametrize("name", ["gpt2", "./no/such/place", "no.gguf", "a/b/c", __file__])
def test_a_name_that_is_no_model_is_explained(name):
    with pytest.raises(ModelError, match=r"There is no|neither the directory"):
        connect(f"torch/{name}")


def test_weights_give_no_vectors():
    with pytest.raises(ModelError, match="no vectors"):
        connect("torch/smollm2-135m", is_embedding=True)
