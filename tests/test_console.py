"""What a command says: a user's mistake is one line, and nothing from the background stands beside it."""

import asyncio
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from transkimmer_jax import console, termination
from transkimmer_jax.errors import TrainingError


def thread_that_fails():
    def work():
        raise RuntimeError("Event loop is closed")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def task_that_is_abandoned():
    async def fail():
        raise RuntimeError("Event loop is closed")

    async def main():
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(main())


def destructor_that_fails():
    class Fails:
        def __del__(self):
            raise RuntimeError("Event loop is closed")

    Fails()
    gc.collect()


BACKGROUND = pytest.mark.parametrize("background", [thread_that_fails, task_that_is_abandoned, destructor_that_fails])


@BACKGROUND
def test_beside_an_error_nothing_else_is_said(background, capsys):
    def command(arguments):
        background()
        raise TrainingError("the disk is full")

    assert console.run(command, []) == 2
    assert capsys.readouterr().err == "error: the disk is full\n"


@BACKGROUND
def test_what_failed_in_the_background_of_success_is_said(background, capsys):
    assert console.run(lambda arguments: background(), []) == 0
    said = capsys.readouterr().err
    assert "RuntimeError: Event loop is closed" in said and "Traceback" in said


def test_hooks_are_put_back(capsys):
    before = threading.excepthook
    console.run(lambda arguments: None, [])
    assert threading.excepthook is before

    def interrupted(arguments):
        raise KeyboardInterrupt

    assert console.run(interrupted, []) == 130 and threading.excepthook is before
    assert capsys.readouterr().err.startswith("interrupted")


STOPS = pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 75, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)


@STOPS
def test_a_stop_says_what_is_kept(number, status, said, capsys):
    """In the words of the innermost part of the command that it falls into; and what the command has begun is cleared up."""
    cleared = []

    def command(arguments):
        with termination.explained(lambda: "nothing is kept"):
            try:
                with termination.explained(lambda: "saved at step 5; the same command resumes"):
                    os.kill(os.getpid(), number)
                    time.sleep(10)
            finally:
                cleared.append(True)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert console.run(command, []) == status and cleared == [True]
    assert capsys.readouterr().err == f"{said}; saved at step 5; the same command resumes\n"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before and termination._words == []


@STOPS
def test_a_stop_while_a_module_is_imported(number, status, said, capsys, tmp_path, monkeypatch):
    """It waits until the module is there: libraries in other languages crash on what is raised while they start."""
    (tmp_path / "slow_to_start.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.3)\nready = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_to_start", raising=False)

    def command(arguments):
        import slow_to_start

        with termination.explained(lambda: f"ready: {slow_to_start.ready}"):
            time.sleep(10)

    assert console.run(command, []) == status
    assert capsys.readouterr().err == f"{said}; ready: True\n"


def test_a_second_sigterm_changes_nothing(capsys):
    def command(arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    assert console.run(command, []) == 75
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_a_process_that_goes_on_is_left_alone(monkeypatch):
    """One that runs commands, as tests do: what was asked of one command is not done to the next."""
    monkeypatch.setattr(termination, "_GRACE", 0.1)
    ended = []
    monkeypatch.setattr(termination, "_end", lambda: ended.append(True))
    assert console.run(lambda arguments: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(10), []) == 75
    time.sleep(0.3)
    assert ended == []


STUCK = """
import signal, sys
from transkimmer_jax import console, termination
termination._GRACE = 0.2

def command(arguments):
    with termination.explained(lambda: "the same command starts again"):
        print("begun", flush=True)
        {stuck}

console.leave(console.run(command, []))
"""


@pytest.mark.parametrize(
    "stuck",
    [
        "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",  # a quarter of an hour in C, where no signal is handled
        "\n        while True:\n            try: signal.pause()\n            except BaseException: pass",
    ],
)
def test_a_sigterm_that_nothing_answers(stuck):
    """As while XLA compiles, or where somebody catches everything."""
    script = STUCK.format(stuck=stuck)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75
        assert process.stderr.read() == "stopped by SIGTERM; the same command starts again\n"


TRAIN_PY = pathlib.Path(__file__).resolve().parents[1] / "train.py"


@pytest.mark.parametrize("command", [[str(TRAIN_PY)], ["-m", "transkimmer_jax"]])
def test_no_command_imports_jax_before_it_can_be_stopped(command):
    """That takes seconds, in which a SIGTERM would end it without a word."""
    run = f"runpy.run_module({command[1]!r})" if command[0] == "-m" else f"runpy.run_path({command[0]!r})"
    script = f"import runpy, sys; {run}; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=TRAIN_PY.parent)
    assert done.stdout == "False\n", done.stderr
