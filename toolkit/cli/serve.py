"""`edgewise serve`: run the OpenAI-compatible server until it is stopped."""

import asyncio
import contextlib
import signal
from pathlib import Path

from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.budget.prices import ANY, Price
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.progress import announce
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model import middleware
from edgewise.toolkit.model.client import Client
from edgewise.toolkit.model.names import is_loopback
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.serve.server import application, find_answerer, import_uvicorn, run_server


def serve(
    path: Path,
    *,
    host: str,
    port: int,
    model: str | None,
    token: str | None,
    limits: Limits,
    price: str | None,
    concurrency: int,
) -> None:
    """
    Serve the artefact at `path` until Ctrl-C or SIGTERM.

    Without `model`, the model answers that the artefact was measured with. Raises the errors of `toolkit.errors`.
    """
    artifact = Artifact.load(path)
    if model and artifact.folders:
        raise ConfigError("This artefact is a trained model: --model would serve another one; leave it out.")
    # A missing answerer or package is an error before a model is downloaded.
    model = model or artifact.model_in_use
    answerer = find_answerer(artifact)
    import_uvicorn()
    # A long download comes before the address is announced.
    pull_missing(model)

    ledger = Ledger(limits, {ANY: Price.parse(price)} if price else {})
    full = path.resolve()
    name = full.stem if full.suffix == ".edge" else full.name

    async def listen() -> None:
        # No journal: requests of a service are not replayed.
        client: Client = middleware.stack_middleware(Router(), ledger=ledger, concurrency=concurrency)
        try:
            app = application(answerer(artifact, model, client), name=name, token=token or "")
            async with run_server(app, host, port) as url:
                announce([f"{name} ({model}) at {url}/v1; stop with Ctrl-C"])
                if not token and not is_loopback(url):
                    announce([f"warning: whoever can reach {url} can use it: set --token."])
                await wait_for_signal()
        finally:
            await client.aclose()

    asyncio.run(listen())
    announce([f"{ledger.total.calls:,} calls, {ledger.total.tokens:,} tokens"])


async def wait_for_signal() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Only the main thread may handle signals, and Windows has no handlers of a loop.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, stop.set)
                handlers.callback(loop.remove_signal_handler, number)
        await stop.wait()
