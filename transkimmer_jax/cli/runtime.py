"""The flags that say how an engine computes."""

import argparse
from typing import Any

from transkimmer_jax.runtime_names import PRECISIONS, PROVIDERS, RUNTIMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--runtime", choices=RUNTIMES, help="what computes (default: onnx on a CPU, jax on a GPU or TPU)")
    parser.add_argument("--provider", choices=PROVIDERS, help="what computes the onnx graph (default: onnxruntime)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of weights and matrix products: int8 with onnxruntime, bfloat16 with openvino and jax"
    )


def options(args: argparse.Namespace) -> dict[str, Any]:
    """What they say, as options of `SkimEngine`."""
    return {name: getattr(args, name) for name in ("runtime", "provider", "precision")}
