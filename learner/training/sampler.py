"""Who draws the replies of a step: this process, or a server that is given the weights after each update."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewise.learner.config import WeightsConfig
from edgewise.learner.sampling.inference_server import InferenceServer
from edgewise.learner.training.engine import Engine
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.types import Reply, Request


@dataclass(slots=True)
class Sampler:
    """
    The engine itself, or `server`; `behind` is by how many steps the weights that sample are older.

    No more than `staleness` is allowed: beyond it a step raises ConfigError before it samples. A server that loads no
    weights is taken to have those that training began with.
    """

    engine: Engine
    server: InferenceServer | None = None
    staleness: int = 0
    weights_age: int = 0

    @classmethod
    def from_config(cls, config: WeightsConfig, engine: Engine, folder: Path) -> "Sampler":
        """
        The sampler that the settings name: http://host:port/v1#NAME, or "" for the engine.

        Weights go to a server through `folder`, which it must see under the same path.
        """
        if not config.sampler:
            return cls(engine)
        url, _, name = config.sampler.partition("#")
        if not url.startswith("http") or not name:
            raise ConfigError(f"sampler={config.sampler!r} is no server: write http://host:port/v1#NAME.")
        server = InferenceServer(
            url,
            name,
            engine.policy,
            folder=folder.absolute(),
            concurrency=config.concurrency,
            timeout=config.timeout,
            attempts=config.attempts,
        )
        return cls(engine, server, config.staleness)

    def answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Replies to a batch of requests."""
        if self.server is None:
            return self.engine.answer(requests)
        if self.weights_age > self.staleness:
            raise ConfigError(
                f"The weights of {self.server.url} are {self.weights_age} steps behind, and it offers no way to load new "
                f"ones: let it load weights (see docs/launch.md), or set staleness={self.weights_age} or more."
            )
        return self.server.answer(requests)

    def update_weights(self, number: int) -> None:
        """The weights are now those after step `number`: hand them on, if the server takes them."""
        if self.server is not None:
            self.weights_age = 0 if self.server.push_weights(self.engine.policy) else number

    def close(self) -> None:
        """Let go of the server, of the policy that it holds, and of what was written for it."""
        if self.server is not None:
            self.server.close()
        self.server = None
