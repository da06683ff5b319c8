"""What the sizes of batches and programs follow from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Sizes that suit one kind of device.

    batch_tokens: tokens of a batch on each device: enough for matrix products at full speed, few enough to answer soon.
    small_batch: share of a batch's tokens and texts that a small batch has, for the few that are left at the end of a call.
    row_multiple: rows; those of a matrix product that the vector or matrix unit computes together. Capacities are multiples of it.
    in_flight: programs started before the oldest is waited for, so that the host packs a batch while the device computes another.
    widths: tokens of the longest text of a batch; one bucket each, beside that of the engine's `max_length`.
    """

    batch_tokens: int
    row_multiple: int
    small_batch: float = 1 / 8
    in_flight: int = 2
    widths: tuple[int, ...] = (16, 32, 64, 96, 128, 192, 256, 384, 512)


_KINDS = {"cpu": Hardware(batch_tokens=4096, row_multiple=8)}
_ACCELERATOR = Hardware(batch_tokens=16384, row_multiple=64)


def hardware(platform: str) -> Hardware:
    """Sizes for a platform by JAX's name of it: 'cpu', 'gpu' or 'tpu'."""
    return _KINDS.get(platform, _ACCELERATOR)
