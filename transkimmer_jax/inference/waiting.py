"""States of sequences that wait between two stages for a batch to be filled, and the memory that they take."""

import numpy as np


class WaitingStates:
    """States [n, H] of each of a call's sequences that has any, n its tokens.

    What a program returns is kept as it is, so nothing is copied of what soon goes on. But one sequence that waits long keeps all of its
    batch: `compact` copies what is left.

    Args:
      count: sequences of the call.
    """

    def __init__(self, count: int):
        self._arrays: dict[int, np.ndarray] = {}  # rows of several sequences each
        self._left: dict[int, int] = {}  # sequences of each array that are still there
        # Of each sequence its array, or -1, and its first row.
        self._array, self._start = np.full(count, -1), np.zeros(count, np.int64)
        self._number = 0  # of the next array
        self.nbytes = 0  # of all arrays

    def put(self, rows: np.ndarray, lengths: np.ndarray, states: np.ndarray) -> None:
        """Keep the states of sequences `rows`, which lie one behind another from the first row of `states` on, `lengths` of each; in place
        of what they had."""
        self.drop(rows)
        if not len(rows):
            return
        self._arrays[self._number], self._left[self._number] = states, len(rows)
        self.nbytes += states.nbytes
        self._array[rows], self._start[rows] = self._number, np.cumsum(lengths) - lengths
        self._number += 1

    def drop(self, rows: np.ndarray) -> None:
        """Forget those of these sequences that have any; arrays of which none is left are freed."""
        counts = np.bincount(self._array[rows] + 1)
        for array in np.flatnonzero(counts[1:]).tolist():
            self._left[array] -= int(counts[array + 1])
            if not self._left[array]:
                del self._left[array]
                self.nbytes -= self._arrays.pop(array).nbytes
        self._array[rows] = -1

    def of(self, rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """States [n, H] of each of these sequences, n its length."""
        starts = self._start[rows]
        # Lists of Python's numbers: one by one, NumPy's are slower to make, to slice by and to look up.
        places = zip(self._array[rows].tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True)
        return [self._arrays[array][start:end] for array, start, end in places]

    def compact(self, lengths: np.ndarray) -> None:
        """Put into one array what is left of those that have rows for more. lengths: of all sequences of the call."""
        rows = np.flatnonzero(self._array >= 0)
        # Of arrays of which little is gone, little is won.
        used = np.bincount(self._array[rows], weights=lengths[rows], minlength=self._number)
        empty = np.array([array for array, states in self._arrays.items() if 2 * used[array] < len(states)], int)
        rows = rows[np.isin(self._array[rows], empty)]
        if len(rows):
            self.put(rows, lengths[rows], np.concatenate(self.of(rows, lengths[rows])))
