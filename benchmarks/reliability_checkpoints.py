"""Faults in the workdir of a run in miniature, each followed by the same command, a process of its own: does it end with the same bits?

The processes are forked from one that has imported everything; those that are stopped while they import start as a user starts them.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # of the processes too

import absl.logging
import jax
import numpy as np
from etils import epath
from faults import checkpoint_faults
from faults.checkpoint_faults import FILES, MUTATIONS, NAMED, Fault, mutation
from reliability import ROOT, Tally
from training import quick, runs
from vocabulary import write_tokenizer

from transkimmer_jax import console
from transkimmer_jax.config import load_config, override
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training import verification
from transkimmer_jax.training.checkpoints import Checkpoints
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.workdir import finished_result

_LIMIT = 900  # seconds; what takes longer hangs, on the busiest machine
# For the process that the others are forked from, which takes no path from this one before Python 3.13.
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["reliability_checkpoints"])


def tallies(seed: int, count: int) -> Iterator[Tally]:
    """As `reliability.Section`. Bits are flipped `count` times in each kind of a checkpoint's files, other damage is done once to each
    kind; and processes are stopped a third as often in each way."""
    absl.logging.set_verbosity(absl.logging.FATAL)  # as the commands do
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(pathlib.Path(folder), np.random.default_rng(seed))
        stops = max(1, count // 3)
        for file in FILES:
            yield bench.damage(f"one bit flipped in {file}", count * [mutation("one bit flipped", file)])
        for kind in MUTATIONS:
            if kind != "one bit flipped":
                yield bench.damage(f"{kind}: each kind of file", [mutation(kind, file) for file in FILES])
        yield bench.damage("{}, [], another step, a folder gone: done by hand", list(NAMED.values()))
        yield bench.restarts(
            "one bit flipped, and the run to its end: each kind of file", [mutation("one bit flipped", file) for file in FILES]
        )
        yield bench.results("one bit flipped in result.json", count)
        yield bench.records("one bit flipped in metrics.jsonl", stops)
        yield bench.kills("killed at any moment", stops, bench.kill_at_random)
        yield bench.kills("killed while an old checkpoint is deleted", stops, bench.kill_while_deleting)
        yield bench.kills("killed while a file or folder is replaced", stops, bench.kill_while_replacing)
        yield bench.terminations("SIGTERM at any moment", stops, importing=False)
        yield bench.terminations("SIGTERM while importing", stops, importing=True)


class _Bench:
    """A run in miniature: one that nothing happens to, and one that was killed behind an evaluated checkpoint."""

    def __init__(self, folder: pathlib.Path, rng: np.random.Generator):
        self._folder, self._rng = folder, rng
        model = runs.write_model(folder / "model", write_tokenizer(folder / "tokenizer"))
        reviews = [
            runs.write_jsonl(folder / name, runs.make_reviews(size, seed=size)) for name, size in (("t.jsonl", 160), ("v.jsonl", 40))
        ]
        fields = {"train.steps": "24", "train.log_every": "1", "train.eval_every": "8", "train.save_every": "4", "train.keep_latest": "2"}
        self._config = runs.write_config(folder / "task.py", override(runs.make_config(model, *reviews), fields))
        self._programs = folder / "programs"
        self._whole = folder / "whole"
        for workdir in (folder / "compiling", self._whole):
            started = time.monotonic()
            status, output = self._run(workdir)
            assert status == 0, (status, output)
            self._duration = time.monotonic() - started
        self._half = folder / "half"
        status, output = self._run(self._half, _kill_before_step_20)
        assert status == -signal.SIGKILL and (self._half / "checkpoints" / "16" / "metrics").exists(), output
        lines = (self._half / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        self._kept_bytes = sum(len(line) for line in lines if json.loads(line)["step"] <= 16)
        self._steps = sorted(int(path.name) for path in (self._half / "checkpoints").iterdir())
        self._template = _template(self._config, self._half, folder / "template")
        self._expected = self._restored(self._half, self._steps[-2])

    def damage(self, fault: str, faults: list[Fault]) -> Tally:
        """Damage the newest checkpoint of the half-way run, and let a start verify them all. It survives where the newest that is left is
        the one before, and has its bytes; of the first fault of each kind where all that is restored from it is the same too."""
        tally = Tally(fault)
        for number, change in enumerate(faults):
            with self._copy(self._half) as workdir, _Said() as said:
                *earlier, target = self._steps
                checkpoints = epath.Path(workdir / "checkpoints")
                change(workdir / "checkpoints" / str(target), self._rng)
                try:
                    survived = number > 0 or _equal(self._restored(workdir), self._expected)
                    verification.put_damaged_aside(checkpoints, keep_latest=2)
                    left = sorted(verification.committed(checkpoints))
                    survived = survived and left == earlier and _bytes(workdir, left[-1]) == _bytes(self._half, left[-1])
                except Exception:
                    survived = False
                    said.append(traceback.format_exc())
                self._add(tally, f"checkpoints/{target} is damaged (" in "".join(said), survived, "\n".join(said))
        return tally

    def restarts(self, fault: str, faults: list[Fault]) -> Tally:
        """As `damage`, and the same command goes on to the end: it survives where all that it leaves is what an undisturbed run does."""
        tally = Tally(fault)
        for change in faults:
            with self._copy(self._half) as workdir:
                change(workdir / "checkpoints" / str(max(self._steps)), self._rng)
                status, output = self._run(workdir)
                self._add(tally, "is damaged (" in output, status == 0 and self._same(workdir), output, silent=status == 0)
        return tally

    def results(self, fault: str, count: int) -> Tally:
        """Of a run that has ended, which says it again when it is asked again; it survives where no other result is said."""
        tally = Tally(fault)
        for _ in range(count):
            with self._copy(self._whole) as workdir:
                checkpoint_faults.flip_bit(workdir / "result.json", self._rng)
                try:
                    finished_result(epath.Path(workdir), load_config(str(self._config)))
                    said = ""
                except TrainingError as error:
                    said = str(error)
                self._add(tally, "result.json is damaged" in said, bool(said), said)
        return tally

    def records(self, fault: str, count: int) -> Tally:
        """Of a run that goes on; it survives where the result and the model are the undisturbed run's."""
        tally = Tally(fault)
        for _ in range(count):
            with self._copy(self._half) as workdir:
                # Not in the lines behind the newest checkpoint, which a restart drops.
                path, kept = workdir / "metrics.jsonl", self._kept_bytes
                content = bytearray(path.read_bytes())
                content[self._rng.integers(kept)] ^= 1 << int(self._rng.integers(8))
                path.write_bytes(content)
                status, output = self._run(workdir)
                self._add(tally, "metrics.jsonl is damaged" in output, status == 0 and self._same(workdir, records=False), output)
        return tally

    def kills(self, fault: str, count: int, kill: Callable[[pathlib.Path], str]) -> Tally:
        """Kill a run, and give the same command until it ends."""
        tally = Tally(fault)
        for number in range(count):
            workdir = self._folder / f"killed{number}"
            output = kill(workdir)
            status, more = self._run(workdir)
            left = list(workdir.rglob(".*"))
            # A kill leaves nothing that a line would have to name: what counts is that nothing is called damaged, or stays.
            quiet = "damaged" not in output + more and not left
            self._add(tally, quiet, status == 0 and self._same(workdir) and not left, output + more)
            shutil.rmtree(workdir)
        return tally

    def kill_at_random(self, workdir: pathlib.Path) -> str:
        return self._run(workdir, signal_at=(signal.SIGKILL, float(self._rng.uniform(0, self._duration))))[1]

    def kill_while_deleting(self, workdir: pathlib.Path) -> str:
        return self._run(workdir, _kill_while_deleting, int(self._rng.integers(1 << 30)))[1]

    def kill_while_replacing(self, workdir: pathlib.Path) -> str:
        return self._run(workdir, _kill_while_replacing, int(self._rng.integers(6)))[1]

    def terminations(self, fault: str, count: int, importing: bool) -> Tally:
        """Ask a run to end; it says what is saved, with the status that schedulers try again after, and the same command goes on."""
        tally = Tally(fault)
        for number in range(count):
            workdir = self._folder / f"asked{number}"
            if importing:
                status, output = self._run_imports(workdir, float(self._rng.uniform(0, 2)))
            else:
                status, output = self._run(workdir, signal_at=(signal.SIGTERM, float(self._rng.uniform(0, self._duration))))
            # What had ended already has nothing to say.
            answered = status == 0 or (status == 75 and "stopped by SIGTERM" in output)
            status, more = self._run(workdir)
            self._add(tally, answered, answered and status == 0 and self._same(workdir), output + more)
            shutil.rmtree(workdir)
        return tally

    @contextlib.contextmanager
    def _copy(self, workdir: pathlib.Path, name: str = "copy") -> Iterator[pathlib.Path]:
        copy = pathlib.Path(shutil.copytree(workdir, self._folder / name))
        try:
            yield copy
        finally:
            shutil.rmtree(copy)

    @staticmethod
    def _add(tally: Tally, noticed: bool, survived: bool, output: str, silent: bool = True) -> None:
        tally.injected += 1
        tally.noticed += noticed
        tally.survived = (tally.survived or 0) + survived
        tally.wrong += silent and not survived
        tally.tracebacks += "Traceback" in output
        if not (noticed and survived) or "Traceback" in output:
            print(f"--- {tally.fault}: noticed {noticed}, survived {survived}\n{output[-3000:]}", file=sys.stderr, flush=True)

    def _restored(self, workdir: pathlib.Path, step: int | None = None) -> Any:
        """What a run would go on with; None where it would begin anew. step: as if it were the newest."""
        state, data = self._template
        with self._copy(workdir, "restored") as copy:
            for path in [path for path in (copy / "checkpoints").iterdir() if step is not None and int(path.name) > step]:
                shutil.rmtree(path)
            with Checkpoints(epath.Path(copy), keep_latest=2, timeout=60) as checkpoints:
                if checkpoints.latest_step is None:
                    return None
                restored, progress = checkpoints.restore(state, data)
            return jax.device_get(restored), data.get_state(), progress

    def _same(self, workdir: pathlib.Path, records: bool = True) -> bool:
        parts = [runs.read_result, runs.model_files, *([runs.read_lines] if records else [])]
        return all(part(workdir) == part(self._whole) for part in parts)

    def _run(
        self, workdir: pathlib.Path, prepare: Callable[..., None] | None = None, *options: int, signal_at: tuple[int, float] | None = None
    ) -> tuple[int, str]:
        """The command once; its exit status, and what it said. signal_at: a signal, and the seconds after which it comes; of a SIGTERM
        from when it is heard."""
        log = self._folder / "log"
        arguments = ["--config", str(self._config), "--workdir", str(workdir)]
        process = _CONTEXT.Process(target=_train, args=(arguments, self._programs, log, prepare, options))
        process.start()
        if signal_at is not None:
            assert process.pid is not None
            while signal_at[0] == signal.SIGTERM and process.is_alive() and not _is_heard(process.pid):
                time.sleep(0.005)
            process.join(signal_at[1])
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal_at[0])
        process.join(_LIMIT)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return process.exitcode, log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def _run_imports(self, workdir: pathlib.Path, seconds: float) -> tuple[int, str]:
        """As a user starts it, and a SIGTERM so many seconds after it is heard at all."""
        command = [sys.executable, str(ROOT / "train.py"), "--config", str(self._config), "--workdir", str(workdir)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(self._programs)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
            while process.poll() is None and not _is_heard(process.pid):
                time.sleep(0.005)
            time.sleep(seconds)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=_LIMIT)
        return process.returncode, output


class _Said(list[str]):
    """What the program logs while the block lasts."""

    def __enter__(self) -> "_Said":
        self._handler = logging.Handler()
        self._handler.emit = lambda record: self.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("transkimmer_jax").addHandler(self._handler)
        return self

    def __exit__(self, *exception: Any) -> None:
        logging.getLogger("transkimmer_jax").removeHandler(self._handler)


def _equal(one: Any, other: Any) -> bool:
    """Whether two that were restored are the same, to the bit."""
    if one is None:
        return False
    leaves = [jax.tree.leaves(state) for state, _, _ in (one, other)]
    same = len(leaves[0]) == len(leaves[1]) and all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True)
    )
    return same and one[1:] == other[1:]


def _bytes(workdir: pathlib.Path, step: int) -> dict[str, bytes]:
    folder = workdir / "checkpoints" / str(step)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _template(config: pathlib.Path, workdir: pathlib.Path, copy: pathlib.Path) -> tuple[Any, Any]:
    """The fresh state and data with which a run asks for its checkpoint."""

    class Asked(Exception):
        pass

    def ask(self, state, data):
        raise Asked(state, data)

    restore, Checkpoints.restore = Checkpoints.restore, ask  # type: ignore[method-assign]
    try:
        train_and_evaluate(load_config(str(config)), shutil.copytree(workdir, copy))
    except Asked as asked:
        state, data = asked.args
        return state, data
    finally:
        Checkpoints.restore = restore  # type: ignore[method-assign]
    raise AssertionError("the run did not ask for a checkpoint")


def _is_heard(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _train(arguments: list[str], programs: pathlib.Path, log: pathlib.Path, prepare: Callable[..., None] | None, options: tuple) -> None:
    """In the new process: what train.py does, with its output in a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for name, value in quick.settings(programs).items():
        jax.config.update(name, value)
    jax.jit = quick.quick(jax.jit)
    if prepare is not None:
        prepare(*options)
    console.leave(console.run(runs.train_main(), arguments))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_before_step_20() -> None:
    """When step 16, an evaluated one, is the newest checkpoint."""
    save = Checkpoints.save

    def killing(self, step, *arguments):
        if step == 20:
            self.wait()
            _die()
        save(self, step, *arguments)

    Checkpoints.save = killing  # type: ignore[method-assign]


def _kill_while_deleting(seed: int) -> None:
    """When some of an old checkpoint's files are gone."""
    from orbax.checkpoint._src.path import deleter

    def killing(self, path, **options):
        present = sorted(file for file in pathlib.Path(path).rglob("*") if file.is_file())
        rng = np.random.default_rng(seed)
        for index in rng.permutation(len(present))[: rng.integers(1, len(present))]:
            present[index].unlink()
        _die()

    deleter.PathDeleter.delete = killing


def _kill_while_replacing(number: int) -> None:
    """Before the so many-th time that a file or folder of the workdir gets its name."""
    replace, left = os.replace, [number]

    def killing(source, target, **options):
        if pathlib.Path(source).name.startswith(".") or pathlib.Path(source).parent.name.startswith("."):
            if left[0] == 0:
                _die()
            left[0] -= 1
        replace(source, target, **options)

    os.replace = killing
