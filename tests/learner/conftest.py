"""What tests of the learner share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.learner import tiny


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models of tests are too small for more: threads would wait for each other, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a tiny model with random weights, saved for the tests of one file."""
    return f"torch/{tiny.save_model(tmp_path_factory.mktemp('tiny'))}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where such a model is."""
    return tiny.save_model(tmp_path_factory.mktemp("tiny"))
