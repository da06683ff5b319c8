"""Where the network is cut into stages, between which batches are made anew."""

from transkimmer_jax.inference.batching import Batching, Sizes
from transkimmer_jax.inference.schedule import Calibration
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.encoder import Stage

_DRAWN_BATCHES = 30  # to compare stages by: fewer than ladders in use are made of


def stages(calibration: Calibration, arch: Architecture, sizes: Sizes) -> tuple[Stage, ...]:
    """The parts of the network between which batches are made anew.

    Inside a part a program's capacities have to leave room for what may come, and what no token takes is computed for nothing; batches
    made of what is known to be left are full again, and lose no text. But each costs the host a start, and its states a way through the
    memory, and where states wait batches are smaller. So the parts are those of which a stream like the calibration's is expected to
    cost least: the whole network where a batch has few rows or layers are small, and more of them where much is gone behind some layer.
    Which tokens enter the first one is looked up (`first.py`), so the first part begins there.
    """
    layers = arch.num_hidden_layers
    if arch.skim is None:
        return (Stage.whole(layers),)
    if sizes.batch_size == 1:
        # A text alone has no batch to be made anew.
        return (Stage(1, layers + 1),)
    # A sample may hold texts longer than the engine reads.
    calibration = calibration.cut(sizes.max_length)
    # From each layer on: the least cost, and the parts.
    best: dict[int, tuple[float, tuple[Stage, ...]]] = {layers + 1: (0.0, ())}
    for first in reversed(range(1, layers + 1)):
        found = []
        for stop in range(first + 1, layers + 2):
            stage = Stage(first, stop)
            batching = Batching(stage, arch, calibration, sizes, calibration.of_stage(stage).lengths, _DRAWN_BATCHES)
            cost, rest = best[stop]
            found.append((batching.expected_cost + cost, (stage, *rest)))
        best[first] = min(found, key=lambda each: each[0])
    return best[1][1]
