"""The first decisions, looked up: the masked computation's margins, each computed once."""

import jax
import numpy as np
import pytest
from inference.skimmers import make_examples, make_model, masked

from transkimmer_jax.inference.first import FirstMargins
from transkimmer_jax.inference.programs import Programs

TEXTS, WIDTH = 200, 40
ROOM = 2**20  # for all of them
EXAMPLES = make_examples([WIDTH] * TEXTS)
IDS, TYPES = (each.reshape(TEXTS, WIDTH) for each in (EXAMPLES.input_ids, EXAMPLES.token_type_ids))


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


def ask(first, ids, types, start=0):
    """In the places from `start` on."""
    positions = np.broadcast_to(np.arange(start, start + ids.shape[1]), ids.shape)
    return first.of(ids.reshape(-1), types.reshape(-1), positions.reshape(-1)).reshape(ids.shape)


def test_margins_are_those_of_masked_computation():
    """Of more tokens than one program has rows, most of them new, then of tokens all of which are known."""
    model, runs = make_model(), []
    expected = np.stack([text.margin[0] for text in masked(model, EXAMPLES, 0.0)])
    first = FirstMargins(Programs(model, jax.devices()[:1]), WIDTH, ROOM)
    original, first._program = first._program, lambda rows: runs.append(rows) or original(rows)
    for _ in range(2):
        np.testing.assert_allclose(ask(first, IDS, TYPES), expected, atol=1e-4, rtol=0)
        count = len(runs)
    distinct = len({*zip(IDS.flat, TYPES.flat, np.tile(np.arange(WIDTH), TEXTS), strict=True)})
    assert runs == [2048] * (distinct // 2048) + [2048 if distinct % 2048 > 64 else 64] and len(runs) == count
    assert first.nbytes == 8 * (distinct + 1), "a number of four bytes and a margin each, and the end"
    # Half of a text, and of one known token another type and another place.
    np.testing.assert_array_equal(ask(first, IDS[:1, 7:20], TYPES[:1, 7:20], 7), ask(first, IDS[:1], TYPES[:1])[:, 7:20])
    assert len(runs) == count
    moved = ask(first, IDS[:1, 7:20], TYPES[:1, 7:20], 11)
    assert np.abs(moved - expected[:1, 7:20]).max() > 0.1


def test_no_tokens():
    assert ask(FirstMargins(Programs(make_model(), jax.devices()[:1]), WIDTH, ROOM), IDS[:0], TYPES[:0]).shape == (0, WIDTH)


@pytest.mark.parametrize("room", [0, 8 * 100, 8 * 3000], ids=["none", "a part of a call's", "a few calls'"])
def test_forgotten_where_there_is_no_room(room):
    """The memory is bounded, the margins are the same, and what was asked for last is still known."""
    model, runs = make_model(), []
    expected = np.stack([text.margin[0] for text in masked(model, EXAMPLES, 0.0)])
    first = FirstMargins(Programs(model, jax.devices()[:1]), WIDTH, room)
    original, first._program = first._program, lambda rows: runs.append(rows) or original(rows)
    for start in range(0, TEXTS, 50):
        some = slice(start, start + 50)
        for _ in range(2):
            count = len(runs)
            np.testing.assert_allclose(ask(first, IDS[some], TYPES[some]), expected[some], atol=1e-4, rtol=0)
            assert first.nbytes <= max(room, 8)
        asked = len({*zip(IDS[some].flat, TYPES[some].flat, np.tile(np.arange(WIDTH), 50), strict=True)})
        assert (len(runs) > count) == (8 * (asked + 1) > room)


def test_more_kinds_of_tokens_than_an_int32_counts():
    """A vocabulary and places beyond any checkpoint's."""
    programs = Programs(make_model(), jax.devices()[:1])
    first = FirstMargins(programs, 2**26, ROOM)
    plain = FirstMargins(programs, WIDTH, ROOM)
    assert first.nbytes == 12
    places = np.arange(WIDTH)
    np.testing.assert_array_equal(first.of(IDS[0], TYPES[0], places), plain.of(IDS[0], TYPES[0], places))
    assert first.nbytes == 12 * (WIDTH + 1)
