"""The flags that say how an engine computes."""

import argparse
from typing import TYPE_CHECKING, Any

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.runtime_names import PRECISIONS, PROVIDERS, RUNTIMES

if TYPE_CHECKING:
    from transkimmer_jax.models.architecture import Architecture


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare them."""
    parser.add_argument("--runtime", choices=RUNTIMES, help="what computes (default: onnx on a CPU, jax on a GPU or TPU)")
    parser.add_argument("--provider", choices=PROVIDERS, help="what computes the onnx graph (default: onnxruntime)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of weights and matrix products: int8 with onnxruntime, bfloat16 with openvino and jax"
    )


def options(args: argparse.Namespace) -> dict[str, Any]:
    """What they say, as options of `SkimEngine`."""
    return {name: getattr(args, name) for name in ("runtime", "provider", "precision")}


def require_positions(model: str, arch: "Architecture", max_length: int | None, flag: str = "--max-length") -> None:
    """Raises `CheckpointError` where a flag asks for more tokens than a model has positions: the engine would read fewer unsaid."""
    limit = arch.max_position_embeddings
    if max_length is not None and max_length > limit:
        raise CheckpointError(f"{max_length} tokens are more than the {limit} positions of {model}: give a lower {flag}")
