"""Laws of the time that a run says is left: it follows neither evaluations nor compilations nor the lengths of the last batches."""

import numpy as np
import pytest

from transkimmer_jax.training import bar as bars
from transkimmer_jax.training.bar import TrainingBar


class Clock:
    """Stands in for `time`."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bars, "time", clock)
    return clock


def test_steps_of_one_kind(clock):
    with TrainingBar(0, 100, visible=False) as bar:
        for step in range(1, 101):
            clock.now += 2.0
            bar.advance(1)
            assert bar.seconds_left == pytest.approx(2.0 * (100 - step))


def test_a_resumed_run_counts_its_own_steps(clock):
    with TrainingBar(60, 100, visible=False) as bar:
        clock.now += 30.0
        bar.advance(10)
        assert bar.seconds_left == pytest.approx(3.0 * 30)


def test_evaluations_and_compilations_are_not_counted(clock):
    with TrainingBar(0, 40, visible=False) as bar:
        for step in range(40):
            shape = (16, 32 if step % 2 else 128)
            with bar.dispatching(shape):
                clock.now += 600.0 if step < 2 else 0.0
            clock.now += 1.0
            bar.advance(1)
            assert bar.seconds_left == pytest.approx(39 - step)
            if step % 10 == 9:
                with bar.untimed():
                    clock.now += 500.0


def test_it_does_not_follow_the_last_batches(clock):
    """Steps of 1 to 8 seconds, shuffled: after a tenth of them the time left is right within a fifth, to the end."""
    seconds = np.random.default_rng(0).permutation(np.tile([1.0, 2.0, 4.0, 8.0], 100))
    with TrainingBar(0, len(seconds), visible=False) as bar:
        for step, length in enumerate(seconds, start=1):
            clock.now += length
            bar.advance(1)
            if len(seconds) // 10 < step < len(seconds) * 9 // 10:
                assert bar.seconds_left == pytest.approx(seconds[step:].sum(), rel=0.2)


def test_what_is_shown(clock, capsys):
    with TrainingBar(0, 10, visible=True) as bar:
        bar.show(loss="0.500")
        bar.show(kept="80%")
        clock.now += 60.0
        bar.advance(1)
        bar._bar.refresh()
        assert "1/10 [" in capsys.readouterr().err.splitlines()[-1]
        bar.advance(0)
    assert "left=0:09:00, loss=0.500, kept=80%" in capsys.readouterr().err
