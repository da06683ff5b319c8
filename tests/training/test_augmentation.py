"""Texts with replaced tokens: what may change does so as often as asked for, and the rest stays."""

import jax
import numpy as np
import pytest

from transkimmer_jax.training.augmentation import with_replaced_tokens

ROWS, WIDTH = 400, 20
CLS, SEP, PAD = 101, 102, 0


def make_batch():
    """Texts of 3 to `WIDTH` tokens, [CLS] ... [SEP]; every ordinary token of the batch is another one."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, WIDTH + 1, ROWS)
    mask = (np.arange(WIDTH) < lengths[:, None]).astype(np.int32)
    ids = (1000 + np.arange(ROWS * WIDTH, dtype=np.int32).reshape(ROWS, WIDTH)) * mask
    ids[:, 0], ids[np.arange(ROWS), lengths - 1] = CLS, SEP
    return ids, mask


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_half_of_the_texts_have_tokens_of_the_batch(rate):
    ids, mask = make_batch()
    noisy, untouched = map(
        np.asarray, jax.jit(with_replaced_tokens, static_argnums=(2, 3))(ids, mask, (CLS, SEP, PAD), rate, jax.random.key(0))
    )
    assert noisy.dtype == ids.dtype and set(untouched) == {0.0, 1.0}
    # Within four standard errors.
    assert untouched.mean() == pytest.approx(0.5, abs=4 * 0.5 / ROWS**0.5)
    changed, ordinary = noisy != ids, ids > 200
    assert not changed[untouched == 1].any() and not changed[~ordinary].any()
    assert set(noisy[changed]) <= set(ids[ordinary])
    # A drawn place is often padding, or special, and then the token stays.
    expected, tokens = rate * ordinary.mean(), ordinary[untouched == 0].sum()
    assert changed[untouched == 0].sum() / tokens == pytest.approx(expected, abs=4 * (expected / tokens) ** 0.5)
    # Tokens come from anywhere in the batch, not from their own text or place.
    rows, columns = np.divmod(noisy[changed] - 1000, WIDTH)
    assert (rows != np.nonzero(changed)[0]).mean() > 0.9 and len(set(columns)) > WIDTH / 2


def test_each_key_draws_other_texts():
    ids, mask = make_batch()
    first, second = (np.asarray(with_replaced_tokens(ids, mask, (CLS, SEP), 0.5, jax.random.key(seed))[0]) for seed in (0, 1))
    assert (first != second).any()
