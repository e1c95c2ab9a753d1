"""`edgewise serve`: run the OpenAI-compatible server until it is stopped."""

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path

from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.budget.prices import ANY, Price
from edgewise.toolkit.cli.models import fetch
from edgewise.toolkit.cli.progress import announce
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model import middleware
from edgewise.toolkit.model.client import Client
from edgewise.toolkit.model.names import is_loopback
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.serve.server import Answerer, _uvicorn, answerer_of, application, running


async def until_stopped() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, stop.set)
                handlers.callback(loop.remove_signal_handler, number)
        await stop.wait()


@dataclass(frozen=True, slots=True)
class Service:
    """How an artefact is served; `model` "" is the one that it was measured with."""

    artifact: Path
    host: str = "127.0.0.1"
    port: int = 8000
    model: str = ""
    token: str = ""
    limits: Limits = Limits()
    price: str = ""
    concurrency: int = 32


def command(service: Service) -> None:
    """Serve an artefact until it is stopped. Raises the errors of `toolkit.errors`."""
    artifact = Artifact.load(service.artifact)
    if service.model and artifact.folders:
        raise ConfigError("This artefact is a trained model: --model would serve another one; leave it out.")
    model = service.model or artifact.model_in_use
    answerer = answerer_of(artifact)
    _uvicorn()
    fetch(model)
    asyncio.run(_serve(service, artifact, model, answerer))


async def _serve(service: Service, artifact: Artifact, model: str, answerer: Answerer) -> None:
    prices = {ANY: Price.parse(service.price)} if service.price else {}
    ledger = Ledger(service.limits, prices)
    client: Client = middleware.stack(Router(), ledger=ledger, concurrency=service.concurrency)
    name = _name(service.artifact)
    try:
        app = application(answerer(artifact, model, client), name=name, token=service.token)
        async with running(app, service.host, service.port) as url:
            announce([f"{name} ({model}) at {url}/v1; stop with Ctrl-C"])
            if not service.token and not is_loopback(url):
                announce([f"warning: whoever can reach {url} can use it: set --token."])
            await until_stopped()
    finally:
        await client.aclose()
    used = ledger.total
    announce([f"{used.calls:,} calls, {used.tokens:,} tokens"])


def _name(artifact: Path) -> str:
    """What an artefact is called: its file without .edge, or its folder."""
    path = artifact.resolve()
    return path.stem if path.suffix == ".edge" else path.name
