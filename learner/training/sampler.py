"""Who samples the rollouts of a step: this process, or a server that receives the weights after each update."""

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
    The engine itself, or a server; `weights_age` is the number of steps by which the server's weights are older.

    Beyond an age of `staleness` a step raises ConfigError before it samples. A server that loads no weights is taken to
    have those that training began with.
    """

    engine: Engine
    server: InferenceServer | None = None
    staleness: int = 0
    weights_age: int = 0

    @classmethod
    def from_config(cls, config: WeightsConfig, engine: Engine, folder: Path) -> "Sampler":
        """
        Return the sampler of the settings: a server http://host:port/v1#NAME, or "" for the engine.

        Weights go to a server through `folder`, which it must see under the same path. Raises ConfigError.
        """
        if not config.sampler:
            return cls(engine)
        url, _, name = config.sampler.partition("#")
        if not url.startswith("http") or not name:
            raise ConfigError(f"sampler={config.sampler!r} is no server: write http://host:port/v1#NAME.")
        limits = {name: getattr(config, name) for name in ("concurrency", "timeout", "attempts")}
        # An absolute path, because the server has another working directory.
        server = InferenceServer(url, name, engine.policy, folder=folder.absolute(), **limits)
        return cls(engine, server, config.staleness)

    def answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Return replies to a batch of requests."""
        if self.server is None:
            return self.engine.answer(requests)
        if self.weights_age > self.staleness:
            raise ConfigError(
                f"The weights of {self.server.url} are {self.weights_age} steps behind, and it offers no way to load "
                f"new ones: let it load weights (see docs/launch.md), or set staleness={self.weights_age} or more."
            )
        return self.server.answer(requests)

    def update_weights(self, number: int) -> None:
        """Give the weights after step `number` to the server, if it takes any."""
        if self.server is not None:
            # Without a way to push, the server still has the weights of step 0.
            self.weights_age = 0 if self.server.push_weights(self.engine.policy) else number

    def close(self) -> None:
        """Release the server, the policy that it holds, and the files that were written for it."""
        if self.server is not None:
            self.server.close()
        self.server = None
