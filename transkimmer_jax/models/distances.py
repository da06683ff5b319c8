"""Rows of distances between tokens, for disentangled attention (He et al., 2021): near ones have a row each, further ones share rows."""

import numpy as np


def distance_rows(longest: int, span: int, reach: int) -> np.ndarray:
    """The row of each distance in texts of up to `longest` tokens, falling.

    Half of the rows of a direction are of one distance each; the others are of ranges that grow with the logarithm. In float32, as in
    transformers, whose ranges these are.

    Args:
      span: rows of a direction, `Architecture.position_buckets`. Row `span` is that of a token and itself.
      reach: `Architecture.max_relative_positions`.

    Returns:
      [2 * longest - 1] int32, from that of the furthest earlier key to that of the furthest later one.
    """
    distance = np.arange(1 - longest, longest)
    near, length = span // 2, np.abs(distance)
    share = np.log(np.maximum(length, near).astype(np.float32) / np.float32(near)) / np.log(np.float32((reach - 1) / near))
    ranged = near + np.ceil(share * np.float32(near - 1)).astype(np.int32)
    row = span - np.sign(distance) * np.where(length <= near, length, ranged)
    return np.clip(row, 0, 2 * span - 1).astype(np.int32)


def row_counts(longest: int, span: int, reach: int) -> np.ndarray:
    """Rows from that of the furthest earlier key to that of the furthest later one in texts of n tokens, by n: [longest + 1] int64."""
    earlier, _, later = np.split(distance_rows(longest, span, reach).astype(np.int64), [longest - 1, longest])
    return np.concatenate([[0, 1], earlier[::-1] - later + 1])
