"""Laws of `predict` over many files: each is answered once, by one process, whole or not at all, whatever was interrupted."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from cli.answers import assert_same
from training import runs

from transkimmer_jax import cli, console
from transkimmer_jax.cli import shards
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.inference import engine, hardware
from transkimmer_jax.inference.engine import SkimEngine

NAMES = ("a", "b", "c", "d", "e")
TEXTS = {name: [record["text"] for record in runs.make_reviews(6 + 2 * seed, seed)] for seed, name in enumerate(NAMES)}


def main(arguments):
    cli.main(["predict", *map(str, arguments)])


@pytest.fixture(autouse=True)
def of_one_process(monkeypatch):
    """Whatever starts the tests."""
    for name in ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def inputs(tmp_path):
    """Five files of texts."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name in NAMES:
        records = [{"id": f"{name}{number}", "text": text} for number, text in enumerate(TEXTS[name])]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return sorted(folder.iterdir())


@pytest.fixture
def predict(model_folder, capsys):
    """Run the command; what it says on standard error."""

    def run(*arguments):
        capsys.readouterr()
        main(["--model", model_folder, *arguments])
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return run


@pytest.fixture
def refusal(refused, model_folder):
    return lambda *arguments: refused("predict", "--model", model_folder, "--quiet", *arguments)


@pytest.fixture
def loaded(monkeypatch):
    """The engines that were loaded."""
    engines, load = [], SkimEngine.from_pretrained.__func__

    def from_pretrained(cls, *args, **options):
        engines.append(load(cls, *args, **options))
        return engines[-1]

    monkeypatch.setattr(SkimEngine, "from_pretrained", classmethod(from_pretrained))
    return engines


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def closing(said):
    """How many texts were answered, how many files of how many were there already."""
    line = said.splitlines()[-1]
    there, files = line.rpartition("; ")[2].removesuffix(" files were there already").split(" of ")
    return int(line.split(" texts in ")[0]), int(there), int(files)


def test_every_file_becomes_a_shard(predict, inputs, tmp_path, loaded):
    """As when it is answered alone, by one engine for all, and the bar says how far it is."""
    said = predict("--input", *inputs, "--output-dir", tmp_path / "deep" / "out")
    assert names(tmp_path / "deep" / "out") == [f"{name}.jsonl" for name in NAMES] and len(loaded) == 1
    for number, path in enumerate(inputs, start=1):
        predict("--input", path, "--output", tmp_path / "alone.jsonl")
        assert_same(read(tmp_path / "deep" / "out" / path.name), read(tmp_path / "alone.jsonl"))
        assert [answer["id"] for answer in read(tmp_path / "alone.jsonl")] == [f"{path.stem}{row}" for row in range(len(TEXTS[path.stem]))]
        assert f"file={number} of 5" in said
    count = sum(map(len, TEXTS.values()))
    assert f"answered: {count} texts" in said and closing(said) == (count, 0, 5)
    shares = [answer["kept"] for path in (tmp_path / "deep" / "out").iterdir() for answer in read(path)]
    closing_line = said.splitlines()[-1]
    assert re.search(rf" mean share kept: {sum(shares) / count:.3f}, truncated: 0; ", closing_line), said


def test_quiet(predict, inputs, tmp_path):
    assert predict("--input", *inputs, "--output-dir", tmp_path / "out", "--quiet").count("\n") == 1


def test_one_file(predict, inputs, tmp_path):
    assert closing(predict("--input", inputs[1], "--output-dir", tmp_path / "out")) == (len(TEXTS["b"]), 0, 1)
    assert names(tmp_path / "out") == ["b.jsonl"]


@pytest.mark.parametrize(("count", "by"), [(1, "flags"), (2, "variables"), (3, "flags"), (7, "flags")])
def test_processes_share_the_files(count, by, predict, inputs, tmp_path, monkeypatch):
    """Each is answered by exactly one, however the inputs are ordered."""
    monkeypatch.setattr(SkimEngine, "predict", lambda self, texts, **options: [answer] * len(texts))
    answer = engine.Answer("pos", None, None, 3, 1.0, False)
    found = []
    for index in range(count):
        if by == "flags":
            arguments = ["--process-id", index, "--num-processes", count]
            monkeypatch.setenv("JAX_PROCESS_ID", "0")
            monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
        else:
            arguments = []
            monkeypatch.setenv("JAX_PROCESS_ID", str(index))
            monkeypatch.setenv("JAX_NUM_PROCESSES", str(count))
        given = inputs if index % 2 else reversed(inputs)
        said = predict("--input", *given, "--output-dir", tmp_path / str(index), *arguments)
        own = names(tmp_path / str(index)) if (tmp_path / str(index)).exists() else []
        assert own == [f"{name}.jsonl" for name in NAMES[index::count]]
        assert said.endswith(f"0 of {len(own)} files were there already\n")
        found += own
    assert sorted(found) == [f"{name}.jsonl" for name in NAMES]


def test_one_variable_alone_says_nothing(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    assert shards.process_of(None, None) == (0, 1)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "")
    assert shards.process_of(None, None) == (0, 1)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    assert shards.process_of(None, None) == (3, 4) and shards.process_of(1, 2) == (1, 2)


def test_a_shard_that_is_there_is_skipped(predict, inputs, tmp_path, loaded):
    """Unread, and trusted by its name; where all are there no model is loaded."""
    arguments = ("--input", *inputs, "--output-dir", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.jsonl").write_text("mine", encoding="utf-8")
    inputs[1].unlink()
    said = predict(*arguments)
    assert closing(said) == (sum(map(len, TEXTS.values())) - len(TEXTS["b"]), 1, 5)
    assert "file=1 of 5" in said and "file=2 of 5" not in said and "file=3 of 5" in said
    assert (tmp_path / "out" / "b.jsonl").read_text(encoding="utf-8") == "mine" and len(loaded) == 1
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert predict(*arguments) == "5 of 5 files were there already\n"
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before and len(loaded) == 1


def test_overwrite(predict, inputs, tmp_path):
    arguments = ("--input", *inputs, "--output-dir", tmp_path / "out")
    predict(*arguments)
    wanted = {path.name: read(path) for path in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "out").iterdir():
        path.write_text("old", encoding="utf-8")
    assert closing(predict(*arguments, "--overwrite")) == (sum(map(len, TEXTS.values())), 0, 5)
    for path in (tmp_path / "out").iterdir():
        assert_same(read(path), wanted[path.name])


def test_patterns(inputs, monkeypatch, tmp_path):
    """Sorted whatever their order; a file of that very name goes before what it would match; folders are no files."""
    folder = inputs[0].parent
    monkeypatch.chdir(folder)
    (folder / "x[1].jsonl").touch()
    (folder / "x1.jsonl").touch()
    (folder / "deep.jsonl").mkdir()
    (folder / "deep.jsonl" / "f.txt").touch()
    assert shards.expand(["[de]*.jsonl", "a.jsonl"]) == ["a.jsonl", "d.jsonl", "e.jsonl"]
    assert shards.expand(["./a.jsonl", "[ad].jsonl", "a.jsonl"]) == ["./a.jsonl", "d.jsonl"], "each once, by its first name"
    (folder / "link.jsonl").symlink_to("a.jsonl")
    assert shards.expand(["a.jsonl", "link.jsonl"]) == ["a.jsonl", "link.jsonl"], "another name has answers of its own"
    assert shards.expand(["?.jsonl"]) == [f"{name}.jsonl" for name in NAMES]
    assert shards.expand(["x[1].jsonl"]) == ["x[1].jsonl"] and shards.expand(["y.jsonl", "-"]) == ["-", "y.jsonl"]
    assert shards.expand(["**/*.txt"]) == [os.path.join("deep.jsonl", "f.txt")]
    with pytest.raises(ConfigError, match="no file matches it"):
        shards.expand(["deep*"])


def test_a_quoted_pattern(predict, inputs, tmp_path):
    folder = inputs[0].parent
    assert closing(predict("--input", folder / "[ab]*", "--input", folder / "e.jsonl", "--output-dir", tmp_path / "out"))[1:] == (0, 3)
    assert names(tmp_path / "out") == ["a.jsonl", "b.jsonl", "e.jsonl"]
    predict("--input", folder / "d*", "--output", tmp_path / "one.jsonl")
    assert len(read(tmp_path / "one.jsonl")) == len(TEXTS["d"])


def test_flags_are_for_every_file(predict, tmp_path):
    """Each file is read as its name says, or all as --format does."""
    for name in ("lines.txt", "cells.CSV", "raw"):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            rows = [[text, number] for number, text in enumerate(TEXTS["a"])]
            csv.writer(file).writerows([["text", "stars"], *rows] if name == "cells.CSV" else [row[:1] for row in rows])
    predict("--input", tmp_path / "cells.CSV", tmp_path / "lines.txt", "--output-dir", tmp_path / "named", "--threshold=1")
    predict("--input", tmp_path / "lines.txt", tmp_path / "raw", "--output-dir", tmp_path / "lines", "--format=text", "--threshold=1")
    assert names(tmp_path / "named") == ["cells.jsonl", "lines.jsonl"] and names(tmp_path / "lines") == ["lines.jsonl", "raw.jsonl"]
    wanted = read(tmp_path / "named" / "lines.jsonl")
    for path in (*(tmp_path / "named").iterdir(), *(tmp_path / "lines").iterdir()):
        assert_same(read(path), wanted)
    predict("--input", tmp_path / "cells.CSV", "--output-dir", tmp_path / "copied", "--copy", "stars")
    assert [answer["stars"] for answer in read(tmp_path / "copied" / "cells.jsonl")] == [str(row) for row in range(len(wanted))]


def test_a_mistake_in_one_file(refusal, predict, inputs, tmp_path):
    """Names the file; what was answered before stays, and the same command goes on when it is corrected."""
    good = inputs[2].read_text(encoding="utf-8")
    inputs[2].write_text(good + '{"txt": "a"}\n', encoding="utf-8")
    arguments = ("--input", *inputs, "--output-dir", tmp_path / "out")
    for _ in range(2):
        complaint = f"{inputs[2]}, line {len(TEXTS['c']) + 1}: no column 'text', only 'txt'"
        assert refusal(*arguments) == complaint
        assert names(tmp_path / "out") == ["a.jsonl", "b.jsonl"]
    inputs[2].write_text(good, encoding="utf-8")
    assert closing(predict(*arguments))[1:] == (2, 5) and names(tmp_path / "out") == [f"{name}.jsonl" for name in NAMES]


def test_files_that_can_never_be_answered(refusal, inputs, tmp_path):
    """Said before any is."""
    out = ("--output-dir", tmp_path / "out")
    missing = tmp_path / "nowhere.jsonl"
    assert refusal("--input", *inputs, missing, *out) == f"{missing}: cannot be read: No such file or directory"
    lines = tmp_path / "lines.txt"
    lines.touch()
    complaint = f"{lines}: --text-columns is for jsonl and csv: in the text format each line is a text"
    assert refusal("--input", *inputs, lines, *out, "--text-columns", "text") == complaint
    assert not (tmp_path / "out").exists()


def test_inputs_and_outputs_that_do_not_go_together(refusal, inputs, tmp_path):
    out = ("--output-dir", tmp_path / "out")
    a, b = inputs[:2]
    assert refusal("--input", a, b) == "2 inputs need --output-dir, a folder for the answers to each"
    assert refusal("--input", a, b, "--output", tmp_path / "out") == "2 inputs need --output-dir, a folder for the answers to each"
    assert refusal("--input", a, "--output", "-", *out) == "--output and --output-dir: give one of them"
    complaint = "--output-dir names answers after their files, and standard input has no name: give --input, or --output"
    assert refusal(*out) == complaint and refusal("--input", a, "-", *out) == complaint
    pattern = f"{tmp_path}/no*.jsonl"
    assert refusal("--input", a, pattern, *out) == f"--input {pattern}: no file matches it"
    assert refusal("--input", pattern) == f"--input {pattern}: no file matches it"
    for flag in (["--overwrite"], ["--process-id=0"], ["--num-processes=1"]):
        assert refusal("--input", a, *flag) == f"{flag[0].partition('=')[0]} is for --output-dir"
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    complaint = f"cannot write {tmp_path / 'file' / 'a.jsonl'}: there is a file where a folder is needed"
    assert refusal("--input", a, "--output-dir", tmp_path / "file") == complaint
    (tmp_path / "out" / "a.jsonl").mkdir(parents=True)
    assert refusal("--input", a, *out) == f"cannot write {tmp_path / 'out' / 'a.jsonl'}: there is a folder where a file is needed"


def test_names_that_clash(refusal, inputs, write, tmp_path):
    """Also where another process would have one of the two, or where both are there already."""
    out, shard = tmp_path / "out", tmp_path / "out" / "a.jsonl"
    other = write("a.txt", "good film\n")
    complaint = f"--input {other} and {inputs[0]} would both be answered in {shard}: rename one"
    out.mkdir()
    for _ in range(2):
        assert refusal("--input", *inputs, other, "--output-dir", out) == complaint
        assert refusal("--input", *inputs, other, "--output-dir", out, "--process-id=1", "--num-processes=7") == complaint
        shard.touch()
    twice = shards.expand([str(inputs[0]), str(inputs[0].parent / "?.jsonl")])
    assert twice == sorted(map(str, inputs)), "a file that is named twice is answered once"


def test_answers_do_not_replace_inputs(refusal, inputs, monkeypatch):
    before = [path.read_bytes() for path in inputs]
    monkeypatch.chdir(inputs[0].parent)
    for arguments in ([], ["--overwrite"], ["--process-id=1", "--num-processes=2"]):
        complaint = f"--output-dir .: the answers to {inputs[0]} would replace the input {inputs[0]}: take another folder"
        assert refusal("--input", *inputs, "--output-dir", ".", *arguments) == complaint
    assert [path.read_bytes() for path in inputs] == before


def test_processes_that_cannot_be_meant(refusal, inputs, tmp_path, monkeypatch):
    arguments = ("--input", *inputs, "--output-dir", tmp_path / "out")
    together = "--process-id and --num-processes go together: give both or neither"
    assert refusal(*arguments, "--process-id=0") == together and refusal(*arguments, "--num-processes=2") == together
    for index in (-1, 2):
        complaint = f"--process-id must be at least 0 and less than --num-processes, which is 2, not {index}"
        assert refusal(*arguments, f"--process-id={index}", "--num-processes=2") == complaint
    assert refusal(*arguments, "--process-id=0", "--num-processes=0") == "--num-processes must be at least 1, not 0"
    monkeypatch.setenv("JAX_PROCESS_ID", "4")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    assert refusal(*arguments) == "JAX_PROCESS_ID must be at least 0 and less than JAX_NUM_PROCESSES, which is 4, not 4"
    monkeypatch.setenv("JAX_NUM_PROCESSES", "many")
    assert refusal(*arguments) == "JAX_NUM_PROCESSES must be an integer, not 'many'"
    assert not (tmp_path / "out").exists()


# The command in windows of 4 texts. Before its n-th window it says so and waits for what is done to it.
_WAITING = """
import sys, time
from transkimmer_jax import cli
from transkimmer_jax.inference import engine, hardware

hardware.STREAM_WINDOW = 4
whole, windows = engine.SkimEngine.predict, 0

def predict(self, texts, **options):
    global windows
    windows += 1
    if windows == int(sys.argv[1]):
        print("waiting", flush=True)
        time.sleep(600)
    return whole(self, texts, **options)

engine.SkimEngine.predict = predict
cli.main(["predict", *sys.argv[2:]])
"""


def killed_before(window, *arguments):
    """Kill the command, a process of its own, by -9 before it answers that window."""
    command = [sys.executable, "-c", _WAITING, str(window), *map(str, arguments)]
    with subprocess.Popen(command, cwd=runs.TRAIN_PY.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n", process.stderr.read()
        process.kill()
        assert process.wait() == -9


def test_killed_and_started_again(predict, model_folder, inputs, tmp_path, monkeypatch):
    """In the middle of the first file, and then of the third: no half shard, and in the end what an uninterrupted run has."""
    monkeypatch.setattr(hardware, "STREAM_WINDOW", 4)
    out = tmp_path / "out"
    arguments = ("--input", *inputs, "--output-dir", out, "--quiet")
    windows = {name: -(-len(texts) // 4) for name, texts in TEXTS.items()}

    def unfinished():
        return sorted((path.name.split(".")[1], len(read(path))) for path in out.glob(".*"))

    killed_before(2, "--model", model_folder, *arguments)
    assert list(out.glob("[!.]*")) == [] and unfinished() == [("a", 4)], "a window was written, and to nothing that looks like a shard"
    (out / ".a.jsonl.backup").touch()
    killed_before(windows["a"] + windows["b"] + 3, "--model", model_folder, *arguments)
    assert sorted(path.name for path in out.glob("[!.]*")) == ["a.jsonl", "b.jsonl"] and unfinished() == [("a", 0), ("c", 8)]
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert closing(predict(*arguments)) == (sum(len(TEXTS[name]) for name in "cde"), 2, 5)
    assert all((out / name).stat().st_mtime_ns == before[name] for name in ("a.jsonl", "b.jsonl"))
    predict("--input", *inputs, "--output-dir", tmp_path / "whole")
    assert names(out) == [".a.jsonl.backup", *names(tmp_path / "whole")], "what was left unfinished is gone"
    for path in (tmp_path / "whole").iterdir():
        assert_same(read(out / path.name), read(path))


def test_two_processes_at_one_shard(tmp_path):
    """The one that came first goes on."""
    shard = str(tmp_path / "a.jsonl")
    refused = pytest.raises(ConfigError, match="a.jsonl: another process is answering the same file: give each an index of its own")
    with shards.replaced_shard(shard) as first:
        first.write("first")
        with refused, shards.replaced_shard(shard):
            raise AssertionError("the block must not run")
    assert names(tmp_path) == ["a.jsonl"] and (tmp_path / "a.jsonl").read_text(encoding="utf-8") == "first"


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (("--output-dir", "out"), "files that are answered stay so, and the same command answers the other files"),
        (("--output-dir", "out", "--overwrite"), "files that are answered stay so, and the same command answers all files again"),
        (("--output", "out"), "out is not written; the same command starts again"),
        ((), "the same command starts again"),
    ],
)
@pytest.mark.parametrize(("stop", "status", "said"), [(signal.SIGTERM, 75, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")])
def test_what_is_said_when_it_is_stopped(model_folder, inputs, tmp_path, monkeypatch, capsys, arguments, kept, stop, status, said):
    """What there is of the answers, and nothing of checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SkimEngine, "from_pretrained", lambda *args, **options: os.kill(os.getpid(), stop) or time.sleep(10))
    assert console.run(main, ["--model", model_folder, "--quiet", "--input", inputs[0], *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == f"{said}; {kept}\n"
    assert names(tmp_path) == ["inputs"]
