"""What a server lets its clients have."""

import dataclasses
import math

from transkimmer_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Names and defaults are those of text-embeddings-inference where it has the same.

    max_concurrent_requests: requests that are waited for at a time; a further one is refused with 429.
    max_batch_tokens: tokens that the engine computes together; a longer text is a batch of its own.
    max_client_batch_size: texts of one request.
    max_input_characters: of one text.
    payload_limit: bytes of a request's body.
    max_header_bytes: of a request's line and headers.
    read_seconds: in which a request must have come in whole, and in which a client must go on reading its answer.
    keep_alive_seconds: that a connection may stay open between requests.
    drain_seconds: that requests have to end in after a SIGTERM.
    auto_truncate: cut a text that is too long where a request does not say; otherwise it is an error.
    threshold_range: the least and the greatest threshold that a request may ask for; None: it may not.

    Raises:
      ConfigError: a size below 1, a time that is not positive and finite, or a range that holds nothing.
    """

    max_concurrent_requests: int = 512
    max_batch_tokens: int = 16_384
    max_client_batch_size: int = 32
    max_input_characters: int = 1_000_000
    payload_limit: int = 2_000_000
    max_header_bytes: int = 16_384
    read_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    drain_seconds: float = 25.0
    auto_truncate: bool = False
    threshold_range: tuple[float, float] | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float) and not (1 if field.type is int else 0.001) <= value < math.inf:
                wanted = "finite" if value == math.inf else "positive"
                raise ConfigError(f"--{field.name.replace('_', '-')} must be {wanted}, not {value}")
        if self.threshold_range is not None:
            low, high = self.threshold_range
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ConfigError(f"--threshold-range must be two finite numbers, the lower one first, not {low:g} {high:g}")
