"""Records of files: errors in one line, and long lines."""

import json
import os

import pytest

from transkimmer_jax.data import records
from transkimmer_jax.data.records import read_example_records, read_records
from transkimmer_jax.errors import DataError


def read(path, **options):
    return [record for _, record in read_records(path, **options)]


def message(path, call=read, **options):
    with pytest.raises(DataError) as error:
        list(call(path, **options))
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    return str(error.value).removeprefix(str(path))


def test_cells_longer_than_the_csv_module_reads_by_itself(write):
    cell = 40_000 * "film, "
    assert read(write("a.csv", f'text,label\n"{cell}",good\n')) == [{"text": cell, "label": "good"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_a_line_longer_than_any_text(write, monkeypatch, name):
    """Said before all of it is in memory."""
    monkeypatch.setattr(records, "LONGEST_LINE", 100)
    first = json.dumps({"text": 60 * "a"}) if name == "a.jsonl" else 60 * "a"
    path = write(name, f"{first}\n{200 * 'b'}\n")
    assert message(path) == ", line 2: is longer than 100 characters: divide it"
    if name != "a.csv":
        assert len(read(write(name, f"{first}\n{first}\n"))) == 2


def test_what_is_no_file(tmp_path, write):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name, says in (
        ("pipe.jsonl", ": is a named pipe: hand it over as standard input"),
        ("folder.jsonl", ": cannot be read: Is a directory"),
        ("absent.jsonl", ": cannot be read: No such file or directory"),
        ("circle.jsonl", ": cannot be read: Too many levels of symbolic links"),
        ("a.jsonl.gz", ": compressed files are not read: unpack it first"),
    ):
        assert message(tmp_path / name) == message(tmp_path / name, read_example_records) == says
    assert message(tmp_path / "a.jsonl.gz", format="jsonl") == ": compressed files are not read: unpack it first"
    assert message(tmp_path / (300 * "n" + ".txt")).endswith(": cannot be read: File name too long")
    with pytest.raises(DataError, match="embedded null"):
        read("a\0.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(write):
    path = write("a.txt", "good\n")
    path.chmod(0)
    assert message(path) == ": cannot be read: Permission denied"


def test_a_pipe_of_the_shell_is_read():
    """`predict --input <(command)` names one below /dev/fd."""
    reading, writing = os.pipe()
    os.write(writing, b"good film\n")
    os.close(writing)
    try:
        assert read(f"/dev/fd/{reading}", format="text") == [{"text": "good film"}]
    finally:
        os.close(reading)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_other_encodings(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("Zoë\n".encode(encoding))
    assert message(path).startswith(": not UTF-8 (") and message(path).endswith("convert it, e.g. with iconv -t UTF-8")


def test_line_ends(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        for name, lines in (
            ("a.txt", ["good", "bad"]),
            ("a.csv", ["text", "good", "bad"]),
            ("a.jsonl", ['{"text": "good"}', '{"text": "bad"}']),
        ):
            (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + "".join(line + end for line in lines).encode())
            assert read(tmp_path / name) == [{"text": "good"}, {"text": "bad"}]


def test_columns_that_cannot_be_told_apart(write):
    assert message(write("a.csv", "text,label,text\na,b,c\n")) == ", line 1: column 'text' is there twice: rename one"


def test_a_first_line_that_is_no_header(write):
    """Thousands of columns, or one of megabytes, are not repeated in what is said."""
    for header in (",".join(f"column {number}" for number in range(5000)), 10**6 * "x"):
        path = write("a.csv", f"{header}\n{header}\n")
        ((where, record),) = read_records(path)
        with pytest.raises(DataError) as error:
            records.column_text(record, "text", where)
        assert len(str(error.value)) < 700
