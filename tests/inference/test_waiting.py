"""States that wait: what was put there, until it is dropped, in no more memory than is counted."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.inference.waiting import WaitingStates

COUNT, HIDDEN = 12, 3
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "drop", "compact"]), st.sets(st.integers(0, COUNT - 1)), st.integers(0, 9)))


@settings(max_examples=200, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_like_a_dictionary(steps, random):
    waiting, expected, lengths = WaitingStates(COUNT), {}, np.zeros(COUNT, np.int64)
    alive = []  # arrays that were put, with the sequences whose states are still there
    for number, (what, rows, empty) in enumerate(steps):
        rows = np.array(random.sample(sorted(rows), len(rows)), np.int64)
        if what == "compact":
            waiting.compact(lengths)
        else:
            for row in rows.tolist():
                expected.pop(row, None)
            for _, sequences in alive:
                sequences -= set(rows.tolist())
        if what == "drop":
            waiting.drop(rows)
        if what == "put":
            lengths[rows] = [random.randint(1, 4) for _ in rows]
            states = np.full((lengths[rows].sum() + empty, HIDDEN), number) + np.arange(lengths[rows].sum() + empty)[:, None] / 100
            waiting.put(rows, lengths[rows], states)
            alive.append((states, set(rows.tolist())))
            ends = np.cumsum(lengths[rows])
            expected |= {row: states[end - lengths[row] : end].copy() for row, end in zip(rows.tolist(), ends, strict=True)}
        there = np.array(sorted(expected), np.int64)
        for found, row in zip(waiting.of(there, lengths[there]), there.tolist(), strict=True):
            np.testing.assert_array_equal(found, expected[row])
        if what != "compact" and "compact" not in [each for each, *_ in steps[:number]]:
            assert waiting.nbytes == sum(states.nbytes for states, sequences in alive if sequences)
    # What is left takes at most twice its own memory.
    waiting.compact(lengths)
    assert waiting.nbytes <= 2 * sum(states.nbytes for states in expected.values())
    waiting.drop(np.arange(COUNT))
    assert waiting.nbytes == 0 and not waiting._arrays
