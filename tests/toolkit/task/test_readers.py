import json
import sys
from pathlib import Path

import pytest

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.task.readers import read_rows

ROWS = [{"id": "a", "text": "Grüße, \u2028 zusammen"}, {"id": "b", "text": 'say "hi"\nnow'}]


def write_jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n", encoding="utf-8")


def write_bom_jsonl(path: Path) -> None:
    path.write_text("\r\n".join(json.dumps(row) for row in ROWS), encoding="utf-8-sig")


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8-sig")


def write_csv(path: Path) -> None:
    path.write_text('id,text\na,"Grüße, \u2028 zusammen"\n\nb,"say ""hi""\nnow"\n', encoding="utf-8-sig")


def write_parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", write_jsonl),
        ("rows.ndjson", write_bom_jsonl),
        ("rows.json", write_json),
        ("rows.CSV", write_csv),
        ("rows.parquet", write_parquet),
    ],
)
def test_all_formats_give_the_same_rows(tmp_path, name, write):
    write(tmp_path / name)
    assert read_rows(name, tmp_path) == ROWS
    assert read_rows(tmp_path / name, "/nowhere") == ROWS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"x": 1}\n\n[1]\n', r"a\.jsonl, line 3 must be a JSON object .* not list"),
        ("a.jsonl", b"\n  \n", r"holds no rows"),
        ("a.jsonl", b'{"x": "\xff"}', r"a\.jsonl is not UTF-8 .*; save it as UTF-8"),
        ("a.json", b"", r"holds no rows"),
        ("a.json", b'{"x": 1}\n{"x": 2}', r"a\.json is not JSON.*\.jsonl"),
        ("a.json", b'{"x": 1}', r"must hold a list of rows, not one dict"),
        ("a.json", b"[1]", r"a\.json, row 1 must be a JSON object"),
        ("a.csv", b"", r"holds no rows"),
        ("a.csv", b"x,y\n", r"holds no rows"),
        ("a.csv", b"x,y\n1,2\n3,4,5\n", r"line 3 has 3 values for 2 columns"),
        ("a.csv", b"x,y\n1,2\n3\n", r"line 3 has 1 values for 2 columns"),
        ("a.csv", b"x,x\n1,2\n", r"two columns of the name 'x'"),
        ("a.csv", b'x,y\n1,"2"3\n', r"line 2 is not CSV"),
        ("a.parquet", b"no parquet", r"a\.parquet is not a Parquet file"),
        ("a.xlsx", b"", r"its name must end in \.jsonl, \.ndjson, \.json, \.csv, \.parquet"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=sentence):
        read_rows(name, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs a file that nobody can read")
def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(TaskError, match=r"rows\.jsonl can't be read: Input/output error"):
        read_rows("rows.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("ticket.jsonl", r"ticket\.jsonl is missing; did you mean tickets\.jsonl\?"),
        ("zzz", r"zzz is missing; did you mean tickets\.jsonl\?"),
        ("gone/rows.csv", r"there is no folder .*gone"),
        ("", r"is a folder, not a file; did you mean tickets\.jsonl\?"),
    ],
)
def test_a_missing_file_suggests_similar_names(tmp_path, source, sentence):
    (tmp_path / "tickets.jsonl").write_text("{}")
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(TaskError, match=sentence):
        read_rows(source, tmp_path)


@pytest.mark.parametrize(("source", "module"), [("rows.parquet", "pyarrow"), ("hf://owner/name", "datasets")])
def test_a_missing_library_has_an_install_command(tmp_path, monkeypatch, source, module):
    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TaskError, match=r"needs " + module + r": pip install 'edgewise\[data\]'"):
        read_rows(source, tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the `datasets` library that returns its arguments."""
    (tmp_path / "datasets.py").write_text(
        "def load_dataset(path, name=None, split=None):\n"
        "    if name == 'broken':\n"
        "        raise FileNotFoundError('no such config\\nmore')\n"
        "    return [{'path': path, 'name': name, 'split': split}]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    yield
    sys.modules.pop("datasets", None)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://Owner/name", ("Owner/name", None, "train")),
        ("hf://owner/name/main", ("owner/name", "main", "train")),
        ("hf://owner/name/main?split=test[:10%25]", ("owner/name", "main", "test[:10%]")),
    ],
)
def test_hub_address_has_data_set_config_and_split(hub, source, expected):
    path, name, split = expected
    assert read_rows(source) == [{"path": path, "name": name, "split": split}]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hf://name", "must read hf://owner/name"),
        ("hf://owner/name?splits=test", "must read hf://owner/name"),
        ("hf://owner/name/broken", "hf://owner/name/broken can't be loaded: no such config$"),
    ],
)
def test_a_wrong_hub_address_is_explained(hub, source, sentence):
    with pytest.raises(TaskError, match=sentence):
        read_rows(source)
