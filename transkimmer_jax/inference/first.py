"""The first decisions, looked up: before the first layer a token's margin depends on its id, its type and its place alone."""

import math
import mmap

import jax
import jax.numpy as jnp
import numpy as np

from transkimmer_jax.inference.programs import Programs

_PAGE = mmap.PAGESIZE
# Rows of the programs: for what a single text has new, and for a stream's beginning.
_ROWS = (64, 2048)


class FirstMargins:
    """Margins of the first predictor. Each is computed when it is first asked for, and remembered.

    Of a stream's tokens most have been seen before in the same place, so in the long run neither their embeddings nor their margins
    are computed to find out that they are not needed.

    Args:
      programs: of the model.
      max_length: places of a text.
    """

    def __init__(self, programs: Programs, max_length: int):
        arch = programs.arch
        self._programs = programs
        self._shape = (max_length, arch.type_vocab_size, arch.vocab_size)
        # 0 is not known yet. A margin that happens to be 0 is computed each time. Pages that nobody has written to take no memory, which
        # np.zeros does not promise where freed memory is kept (`memory.py`).
        own: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        self._margins = np.frombuffer(mmap.mmap(-1, math.prod(self._shape) * 4, **own), np.float32)
        self._compiled: dict[int, jax.stages.Compiled] = {}

    @property
    def nbytes(self) -> int:
        """Memory that the known margins take, which is that of the pages that hold some."""
        starts = np.arange(0, len(self._margins), _PAGE // self._margins.itemsize)
        return int((np.add.reduceat(self._margins != 0, starts) > 0).sum()) * _PAGE

    def of(self, input_ids: np.ndarray, token_type_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Margins [n] float32 of tokens [n]."""
        index = np.ravel_multi_index((positions, token_type_ids, input_ids), self._shape)
        missing = np.unique(index[self._margins[index] == 0])
        while len(missing):
            rows = next((rows for rows in _ROWS if len(missing) <= rows), _ROWS[-1])
            some, missing = missing[:rows], missing[rows:]
            # The last one again and again, where there are fewer.
            place, kind, token = np.unravel_index(np.pad(some, (0, rows - len(some)), mode="edge"), self._shape)
            arrays = [each.astype(np.int32) for each in (token, kind, place)]
            self._margins[some] = np.asarray(self._program(rows)(self._programs.params, *arrays))[: len(some)]
        return self._margins[index]

    def compile(self) -> None:
        """Ahead of time."""
        for rows in _ROWS:
            self._program(rows)

    def _program(self, rows: int) -> jax.stages.Compiled:
        if rows not in self._compiled:
            row = jax.ShapeDtypeStruct((rows,), jnp.int32)
            function = self._programs.first_margins
            self._compiled[rows] = jax.jit(function).lower(self._programs.params, row, row, row).compile()
        return self._compiled[rows]
