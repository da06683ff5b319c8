"""The first decisions, looked up: before the first layer a token's margin depends on its id, its type and its place alone."""

from collections.abc import Callable

import jax
import numpy as np

from transkimmer_jax.inference.programs import Programs

# Rows of the programs: for what a single text has new, and for a stream's beginning.
_ROWS = (64, 2048)


class FirstMargins:
    """Margins of the first predictor. Each is computed when it is first asked for, and remembered as long as there is room.

    Of a stream's tokens most have been seen before in the same place, so in the long run neither their embeddings nor their margins
    are computed to find out that they are not needed.

    Args:
      programs: of the model.
      max_length: places of a text.
      room: bytes that the remembered ones may take. Where more come, those are forgotten that the last call did not ask for.
    """

    def __init__(self, programs: Programs, max_length: int, room: int):
        arch = programs.arch
        self._programs = programs
        self.room = room
        self._shape = (max_length, arch.type_vocab_size, arch.vocab_size)
        # Tokens by place, type and id as one number, rising, and their margins. The last is none: so every search ends at one.
        self._tokens, self._margins = np.array([np.iinfo(np.int32).max], np.int32), np.zeros(1, np.float32)
        if np.prod(self._shape, dtype=float) > self._tokens[0]:
            self._tokens = np.array([np.iinfo(np.int64).max])
        self._compiled: dict[int, Callable[..., jax.Array]] = {}

    @property
    def nbytes(self) -> int:
        """Memory that the remembered ones take."""
        return self._tokens.nbytes + self._margins.nbytes

    def of(self, input_ids: np.ndarray, token_type_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Margins [n] float32 of tokens [n]."""
        asked = np.ravel_multi_index((positions, token_type_ids, input_ids), self._shape).astype(self._tokens.dtype)
        places = np.searchsorted(self._tokens, asked)
        unknown = self._tokens[places] != asked
        if not unknown.any():
            return self._margins[places]
        new = np.unique(asked[unknown])
        at = np.searchsorted(self._tokens, new)
        tokens, margins = np.insert(self._tokens, at, new), np.insert(self._margins, at, self._computed(new))
        found = margins[np.searchsorted(tokens, asked)]
        if tokens.nbytes + margins.nbytes > self.room:
            fitting = self.room // (tokens.itemsize + margins.itemsize)
            kept = np.searchsorted(tokens, np.unique(asked))[: max(0, fitting - 1)]
            kept = np.append(kept, len(tokens) - 1)
            tokens, margins = tokens[kept], margins[kept]
        self._tokens, self._margins = tokens, margins
        return found

    def _computed(self, tokens: np.ndarray) -> np.ndarray:
        margins = []
        while len(tokens):
            rows = next((rows for rows in _ROWS if len(tokens) <= rows), _ROWS[-1])
            some, tokens = tokens[:rows], tokens[rows:]
            # The last one again and again, where there are fewer.
            place, kind, token = np.unravel_index(np.pad(some, (0, rows - len(some)), mode="edge"), self._shape)
            arrays = [each.astype(np.int32) for each in (token, kind, place)]
            margins.append(np.asarray(self._program(rows)(*arrays))[: len(some)])
        return np.concatenate(margins)

    def compile(self) -> None:
        """Ahead of time."""
        for rows in _ROWS:
            self._program(rows)

    def _program(self, rows: int) -> Callable[..., jax.Array]:
        if rows not in self._compiled:
            self._compiled[rows] = self._programs.first_margins(rows)
        return self._compiled[rows]
