"""What a command says: a user's mistake is one line, and nothing from the background stands beside it."""

import asyncio
import gc
import threading

import pytest

from transkimmer_jax import console
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
