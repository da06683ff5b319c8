"""All sizes that were measured or chosen: those of a kind of device, and those of every device."""

import dataclasses
import math

STREAM_WINDOW = 4096  # texts of a stream that are read, grouped by length and answered together: what is in memory at a time
CALIBRATION_TEXTS = 1024  # texts of a calibration at most
TEXTS_OF_A_BUCKET = 32  # texts of a calibration from which a bucket's shares can be told
ENOUGH_TEXTS = 256  # answered texts that capacities are made from where nobody has calibrated
# The same at thresholds that are not calibrated where others are: calibrated programs or those with room for all do meanwhile, and
# compiling takes as long as many texts do.
ENOUGH_TEXTS_OF_A_THRESHOLD = 4096
MOST_CALIBRATIONS = 8  # thresholds that a runtime makes capacities for by itself, counting those that it was told
THRESHOLD_STEP = 1 / 16  # a power of two; thresholds within one step share what is learned
THRESHOLD_ROUNDING = 1e-3  # people write thresholds in so many digits; as near as this, two are the same
RUNGS = (1.0, 1.1, 1.4, math.inf)  # rows of a layer, and attention's width, over the expected ones
WIDTH_MULTIPLE = 4  # tokens; attention's width in a program
FORGETTING = 0.99  # weight of what a batch lost over that of what the next one of its bucket lost
SIMILARITY_ROWS = 256  # vectors that are compared with all others in one product
# Tokens of a batch for each thread that computes a graph, by what was fastest with two threads.
THREAD_TOKENS = {"onnxruntime": 1024, "openvino": 4096}
# Attention's scores of a batch, texts times heads times the square of the longest text's tokens: 1 GiB in float32. A layer has 2.4 times
# that in memory.
GRAPH_SCORES = 2**28
# Pairs of tokens that attention compares for each real token of a batch, whose texts it sees as wide as the longest. So many cost
# 4 H x 512 FLOPs beside the 24 H^2 of a layer's products: a quarter at most from H = 384 on. Texts of one length have as many
# pairs a token as each has tokens, and go together however long they are.
GRAPH_PAIRS_PER_TOKEN = 512
# Rows of products in a graph, eight sizes to an octave. In bfloat16 OpenVINO makes a program for each size that it meets.
BFLOAT16_GRAPH_ROWS = (0, *(eighth << octave for octave in range(1, 28) for eighth in range(8, 16)))
BFLOAT16_GRAPH_WIDTH_MULTIPLE = 16  # tokens; OpenVINO's attention in bfloat16 is slower between


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Sizes that suit one kind of device.

    batch_tokens: tokens of a batch on each device: enough for matrix products at full speed, few enough to answer soon.
    small_batch: share of a batch's tokens and texts that a small batch has, for the few that are left at the end of a call.
    row_multiple: rows; those of a matrix product that the vector or matrix unit computes together. Capacities are multiples of it.
    in_flight: programs started before the oldest is waited for, so that the host packs a batch while the device computes another.
    widths: tokens of the longest text of a batch; one bucket each, beside that of the engine's `max_length`.
    scores: attention's scores of a batch, slots times heads times the square of the width; 1 GiB in float32. One text alone may have more.
    """

    batch_tokens: int
    row_multiple: int
    small_batch: float = 1 / 8
    in_flight: int = 2
    # Above 512 two to an octave, as far as any model reads.
    widths: tuple[int, ...] = (16, 32, 64, 96, 128, 192, 256, *(width << octave for octave in range(8) for width in (384, 512)))
    scores: int = 2**28


_KINDS = {"cpu": Hardware(batch_tokens=4096, row_multiple=8)}
_ACCELERATOR = Hardware(batch_tokens=16384, row_multiple=64)


def hardware(platform: str) -> Hardware:
    """Sizes for a platform by JAX's name of it: 'cpu', 'gpu' or 'tpu'."""
    return _KINDS.get(platform, _ACCELERATOR)
