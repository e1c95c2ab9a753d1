"""
A softmax policy over short words, small enough to be trained a thousand times, in the place of a language model.

A prompt is a set of features: the words of the row, and what hints or solved rows before it show. Each feature has a
table of logits by place and last letter; those of a prompt are added up, so what is learnt with a hint also moves the
row without it. A reply is letters, ended by END or by the limit. `update` and `gather` of the learner run on it as
they are; only the forward is another one (`logps`).

F features of a prompt, S states (place and last letter), V letters and END.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import embedding

from edgewise.learner.methods.batch import Batch
from edgewise.toolkit.groups.sampling.hints import HINTS_HEADER
from edgewise.toolkit.types import Message, TokenizedTurn

END = 0
SHOWN = re.compile(r"^(?:Answer:|-) (\w+)$", re.MULTILINE)
"""Words that a solved row before the question or a hint behind it shows."""


def shown(word: str) -> list[str]:
    """Features of a word in view: which letter stands where."""
    return [f"{place}{letter}" for place, letter in enumerate(word)]


def features(text: str) -> list[str]:
    """Features of a prompt: the words of the question, and the letters that are shown."""
    question = text.split(HINTS_HEADER)[0].rpartition("\n\n")[2]
    return [*question.split(), *(each for word in SHOWN.findall(text) for each in shown(word))]


@dataclass(eq=False)
class Softmax:
    """
    What `learner.update.gradient_step` and `learner.sampling.given_answers` need of a policy.

    `names` are its features, `letters` the alphabet, `length` the most tokens of a reply.
    """

    names: Sequence[str]
    letters: str
    length: int
    is_sharded: ClassVar[bool] = False
    eos_token_id: ClassVar[int] = END
    _refers: bool = False
    numbers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = {name: number for number, name in enumerate(self.names)}
        shape = (len(self.names) * self.states + 1, len(self.letters) + 1)
        self.weights = Parameter(torch.zeros(shape))  # the first is that of no feature
        self._frozen = self.weights.detach()

    @property
    def states(self) -> int:
        return self.length * (len(self.letters) + 1)

    @property
    def tables(self) -> np.ndarray:
        """(features, length, last letter, V) the logits, to be read or set."""
        size = len(self.letters) + 1
        return self.weights.detach()[1:].numpy().reshape(len(self.names), self.length, size, size)

    def table(self, name: str) -> np.ndarray:
        """(length, last letter, V) the logits of a feature, to be set."""
        return self.tables[self.numbers[name]]

    # ---- text ------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> "Letters":
        return Letters(self.letters)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The features of the last message that the policy knows, each once."""
        known = (self.numbers.get(name) for name in features(messages[-1].content))
        return tuple(dict.fromkeys(number for number in known if number is not None))

    # ---- weights ---------------------------------------------------------------------------------------

    def parameters(self) -> list[Parameter]:
        return [self.weights]

    def clip_gradients(self, most: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(self.parameters(), most))

    def with_reference(self) -> "Softmax":
        self._frozen = self.weights.detach().clone()
        return self

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        self._refers = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._refers = False

    @property
    def read(self) -> Tensor:
        """The weights that a forward reads."""
        return self._frozen if self._refers else self.weights

    # ---- sampling --------------------------------------------------------------------------------------

    def logp(self, prompt: Sequence[int]) -> np.ndarray:
        """(length, last letter, V) log-probabilities after a prompt."""
        logits = self.tables[list(prompt)].sum(0, dtype=np.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def sample(self, prompt: tuple[int, ...], count: int, rng: np.random.Generator) -> list[TokenizedTurn]:
        """So many replies, drawn at temperature 1."""
        logp = self.logp(prompt)
        upto = np.exp(logp).cumsum(-1)
        chances = rng.random((self.length, count))
        last, found, told = np.zeros(count, int), [], []
        for place in range(self.length):
            drawn = (upto[place, last] < chances[place][:, None]).sum(1).clip(max=len(self.letters))
            found.append(drawn)
            told.append(logp[place, last, drawn])
            last = drawn
        ids, logps = np.stack(found, 1), np.stack(told, 1)
        ended = ids == END
        lengths = np.where(ended.any(1), ended.argmax(1) + 1, self.length)
        return [
            TokenizedTurn(prompt, tuple(row[:n].tolist()), tuple(each[:n].tolist()))
            for row, each, n in zip(ids, logps, lengths.tolist(), strict=True)
        ]

    def chance(self, prompt: Sequence[int], words: Sequence[str]) -> float:
        """The probability that the reply is one of these words, ended."""
        logp, total = self.logp(prompt), 0.0
        for word in words:
            ids = [*self.tokenizer.encode(word), END]
            total += np.exp(sum(logp[at, last, now] for at, (last, now) in enumerate(zip([END, *ids], ids))))  # noqa: B905
        return float(total)

    def length_of(self, prompt: Sequence[int]) -> float:
        """The mean tokens of a reply."""
        share, alive = np.exp(self.logp(prompt)), np.zeros(len(self.letters) + 1)
        alive[END], total = 1.0, 0.0  # before the first letter the last one is END
        for place in range(self.length):
            total += alive.sum()
            alive = alive @ share[place]
            alive[END] = 0.0
        return float(total)


@dataclass(frozen=True)
class Letters:
    """The tokenizer: letters are tokens from 1."""

    letters: str
    eos_token_id: ClassVar[int] = END

    def encode(self, text: str, **_: Any) -> list[int]:
        return [self.letters.index(letter) + 1 for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.letters[token - 1] for token in ids if token != END)


def logps(
    policy: Softmax, batch: Batch, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """What `learner.attention.logprobs.logps` is: (b, T) log-probabilities and entropies, with a gradient."""
    logits = embedding(_places(policy, batch), policy.read, padding_idx=0).sum(2) / temperature
    share = logits.log_softmax(-1)
    found = torch.where(batch.mask, share.gather(2, batch.ids[..., None])[..., 0], 0.0)
    return found, -(share.exp() * share).sum(-1) if entropy else None


def _places(policy: Softmax, batch: Batch) -> Tensor:
    """(b, T, F) rows of the weights that a token's logits are the sum of; 0 for none."""
    most, longest = max(map(len, batch.prompts)), batch.ids.shape[1]
    known = torch.tensor([[*prompt, *[-1] * (most - len(prompt))] for prompt in batch.prompts])
    last = torch.cat([torch.full((len(batch), 1), END), batch.ids[:, :-1]], 1)
    state = torch.arange(longest) * (len(policy.letters) + 1) + last
    return torch.where(known[:, None] < 0, 0, known[:, None] * policy.states + state[..., None] + 1)
