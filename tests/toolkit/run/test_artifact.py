"""Artefacts: the same from a directory and a zip, checked when read, and nothing but data."""

import contextlib
import json
import pickle
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.run.artifact import FORMAT, Artifact

FILES = {"library.json": {"lessons": ["größer"], "place": "before"}, "evidence.json": {"n": [1, 2.5, None]}}
WHOLE = Artifact("f" * 64, "openai/x", FILES, {"temperature": 0.3}, ("parent",))
FORMS = pytest.mark.parametrize("name", ["a", "a.edge"])


def entries(path) -> dict[str, bytes]:
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, blobs):
    """A zip or a directory with these entries, whatever they are."""
    if path.suffix == ".edge":
        with zipfile.ZipFile(path, "w") as archive:
            for name, blob in blobs.items():
                archive.writestr(name, blob)
    else:
        path.mkdir(exist_ok=True)
        for file in path.iterdir():
            file.unlink()
        for name, blob in blobs.items():
            (path / name).write_bytes(blob)
    return path


def changed(path, **changes):
    """The artefact at `path` with other values in its manifest (None: without the key)."""
    blobs = entries(path)
    manifest = {**json.loads(blobs["manifest.json"]), **changes}
    kept = {key: value for key, value in manifest.items() if value is not None}
    return write(path, {**blobs, "manifest.json": json.dumps(kept).encode()})


@FORMS
def test_saved_artefact_loads_unchanged_without_leftovers(name, tmp_path):
    path = WHOLE.save(tmp_path / "new" / name)
    assert Artifact.load(path) == WHOLE
    assert set(entries(path)) == {"library.json", "evidence.json", "manifest.json"}
    assert [file.name for file in path.parent.iterdir()] == [name]
    assert (Artifact.load(path).library, Artifact.load(path).evidence) == tuple(FILES.values())


def test_directory_and_zip_hold_the_same_bytes(tmp_path):
    assert entries(WHOLE.save(tmp_path / "a")) == entries(WHOLE.save(tmp_path / "a.edge"))


@FORMS
def test_save_replaces_an_older_artefact(name, tmp_path):
    WHOLE.save(tmp_path / name)
    new = Artifact("task", "model", {"library.json": {}})
    assert Artifact.load(new.save(tmp_path / name)) == new


def test_half_written_artefact_counts_as_unfinished(tmp_path):
    path = WHOLE.save(tmp_path / "a")
    (path / "library.json").unlink()
    (path / "library.json").mkdir()  # a name that can't be written to, in the middle of saving
    with pytest.raises(OSError):
        WHOLE.save(path)
    with pytest.raises(ArtifactError, match=r"not finished|no artefact"):
        Artifact.load(path)


def test_run_directory_loads_as_its_artefact(tmp_path):
    WHOLE.save(tmp_path / "artifact")
    assert Artifact.load(tmp_path) == WHOLE


@FORMS
def test_changed_file_is_refused(name, tmp_path):
    path = WHOLE.save(tmp_path / name)
    write(path, {**entries(path), "library.json": b'{"lessons": ["buy now"]}'})
    with pytest.raises(ArtifactError, match=r"library\.json does not match its checksum"):
        Artifact.load(path)


@FORMS
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": FORMAT + 1}, "upgrade edgewise"),
        ({"format": None}, "damaged"),
        ({"format": "two"}, "damaged"),
        ({"files": None}, "damaged"),
        ({"files": ["library.json"]}, "damaged"),
        ({"files": {"missing.json": "0"}}, "damaged"),
        ({"parents": 3}, "damaged"),
    ],
)
def test_wrong_manifest_is_refused(name, changes, sentence, tmp_path):
    with pytest.raises(ArtifactError, match=sentence):
        Artifact.load(changed(WHOLE.save(tmp_path / name), **changes))


@FORMS
@pytest.mark.parametrize("manifest", [b"", b"[1]", b"null", b"{}", b"\xff\xfe"])
def test_file_that_is_no_manifest_is_refused(name, manifest, tmp_path):
    path = write(tmp_path / name, {"manifest.json": manifest})
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.load(path)


@FORMS
def test_artefact_without_manifest_is_unfinished(name, tmp_path):
    path = write(tmp_path / name, {"library.json": b"{}"})
    with pytest.raises(ArtifactError, match=r"no manifest\.json: it is neither an artefact nor a finished run"):
        Artifact.load(path)


def test_missing_path_and_other_files_are_named_in_the_error(tmp_path):
    with pytest.raises(ArtifactError, match="There is no artefact"):
        Artifact.load(tmp_path / "nowhere.edge")
    (tmp_path / "text.edge").write_text("hello")
    with pytest.raises(ArtifactError, match="is no artefact"):
        Artifact.load(tmp_path / "text.edge")


@given(st.integers(0, 9999), st.integers(1, 255))
def test_damaged_byte_of_a_zip_is_refused_or_harmless(tmp_path_factory, place, flip):
    path = WHOLE.save(tmp_path_factory.mktemp("zip") / "a.edge")
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= flip
    path.write_bytes(content)
    with contextlib.suppress(ArtifactError):
        assert Artifact.load(path) == WHOLE


@pytest.mark.parametrize("name", ["../outside.json", "/tmp/outside.json", "a/../../b.json", "x\\..\\y.json", ""])
def test_names_that_point_outside_the_folder_are_harmless(name, tmp_path):
    path = WHOLE.save(tmp_path / "in" / "a.edge")
    blobs = {**entries(path), name: b"{}"}
    if name:
        # As an entry alone: never written to disk, never looked at.
        assert Artifact.load(write(path, blobs)) == WHOLE
    sums = {name: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
    if name:
        write(path, blobs)
    with pytest.raises(ArtifactError, match=r"names a file"):
        Artifact.load(changed(path, files=sums))
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["a.edge"]


class Trap:
    def __reduce__(self):
        return (sys.exit, ("executed",))


@FORMS
def test_loading_executes_nothing(name, tmp_path):
    path = WHOLE.save(tmp_path / name)
    write(path, {**entries(path), "trap.pkl": pickle.dumps(Trap()), "trap.py": b"raise SystemExit('imported')"})
    before = set(sys.modules)
    assert Artifact.load(path) == WHOLE
    assert set(sys.modules) == before


# ---- folders of weights ----------------------------------------------------------------------------------

WEIGHTS = {"model.safetensors": b"\x00" * 5000, "config.json": b"{}", "chat_template.jinja": "{{ größe }}".encode()}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """An artefact with weights; what is unpacked goes into a cache of the test's own."""
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "made"
    folder.mkdir()
    for name, content in {**WEIGHTS, "training.log": b"left out"}.items():
        (folder / name).write_bytes(content)
    return Artifact("task", "torch/base", {"weights.json": {"steps": 3}}, folders={"weights": folder})


def put(path, name, content):
    """The artefact at `path` with another content of one file of its weights; None takes it away."""
    if path.is_dir():
        (path / name).unlink(missing_ok=True)
        if content is not None:
            (path / name).write_bytes(content)
        return path
    blobs = {**entries(path), name: content}
    return write(path, {key: blob for key, blob in blobs.items() if blob is not None})


@FORMS
def test_weights_load_as_they_were_saved(name, trained, tmp_path):
    loaded = Artifact.load(trained.save(tmp_path / name))
    assert {file.name: file.read_bytes() for file in loaded.folders["weights"].iterdir()} == WEIGHTS
    assert loaded.files == trained.files
    assert loaded.model == "torch/base"
    assert loaded.model_in_use == f"torch/{loaded.folders['weights']}"
    assert WHOLE.model_in_use == WHOLE.model


@FORMS
def test_loaded_artefact_saves_as_directory_and_zip(name, trained, tmp_path):
    loaded = Artifact.load(trained.save(tmp_path / name))
    loaded.save(tmp_path / name)
    again = Artifact.load(loaded.save(tmp_path / "b.edge")).save(tmp_path / "c")
    assert {file.name: file.read_bytes() for file in (again / "weights").iterdir()} == WEIGHTS


def test_save_removes_weights_of_an_older_artefact(trained, tmp_path):
    path = trained.save(tmp_path / "a")
    (trained.folders["weights"] / "chat_template.jinja").unlink()
    (trained.folders["weights"] / "model-00001-of-00002.safetensors").write_bytes(b"part")
    trained.save(path)
    assert {file.name for file in Artifact.load(path).folders["weights"].iterdir()} == {
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "config.json",
    }


@FORMS
@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize("content", [b"other", None])
def test_damaged_or_missing_weights_are_refused(name, file, content, trained, tmp_path):
    path = put(trained.save(tmp_path / name), f"weights/{file}", content)
    with pytest.raises(ArtifactError, match=r"does not match its checksum|damaged"):
        Artifact.load(path)


def test_damaged_cache_of_weights_is_unpacked_again(trained, tmp_path):
    path = trained.save(tmp_path / "a.edge")
    unpacked = Artifact.load(path).folders["weights"] / "model.safetensors"
    unpacked.write_bytes(b"half")
    assert Artifact.load(path).folders["weights"] == unpacked.parent
    assert unpacked.read_bytes() == WEIGHTS["model.safetensors"]


def test_zip_cut_inside_its_weights_is_damaged(trained, tmp_path):
    path = trained.save(tmp_path / "a.edge")
    content = path.read_bytes()
    path.write_bytes(content[:100] + content[600:])
    with pytest.raises(ArtifactError):
        Artifact.load(path)


@pytest.mark.parametrize("file", ["modeling_evil.py", "pytorch_model.bin", "generation_config.json"])
def test_file_missing_from_the_manifest_is_refused(file, trained, tmp_path):
    path = trained.save(tmp_path / "a")
    (path / "weights" / ".DS_Store").write_bytes(b"")
    Artifact.load(path)
    (path / "weights" / file).write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=f"weights/{file} is not named"):
        Artifact.load(path)


@FORMS
@pytest.mark.parametrize(
    "name_in",
    [
        "../weights/model.safetensors",
        "weights/../../x.safetensors",
        "/tmp/x.safetensors",
        "weights/deep/x.safetensors",
        "weights/model.bin",
        "weights/run.py",
        "weights/.hidden.json",
        "..\\x.safetensors",
    ],
)
def test_weights_names_outside_the_folder_are_refused(name, name_in, trained, tmp_path):
    path = trained.save(tmp_path / "in" / name)
    manifest = json.loads(entries_of_manifest(path))
    manifest["files"][name_in] = "0" * 64
    put(path, "manifest.json", json.dumps(manifest).encode())
    if path.suffix == ".edge":
        put(path, name_in, b"{}")
    with pytest.raises(ArtifactError, match="names a file"):
        Artifact.load(path)
    assert not list(tmp_path.glob("*.safetensors")) and not (tmp_path / "cache").exists()


def entries_of_manifest(path) -> bytes:
    return (path / "manifest.json").read_bytes() if path.is_dir() else entries(path)["manifest.json"]
