"""Flags that several tools share."""

import argparse
from typing import Any

from transkimmer_jax.runtime_names import PRECISIONS, PROVIDERS, RUNTIMES


def add_threshold(parser: argparse._ActionsContainer) -> None:
    """Declare `--threshold`."""
    parser.add_argument("--threshold", type=float, metavar="T", help="share of FLOPs to save, or the least margin (default: the model's)")


def add_runtime(parser: argparse._ActionsContainer) -> None:
    """Declare the flags that say how an engine computes."""
    parser.add_argument("--runtime", choices=RUNTIMES, help="default: onnx on a CPU, jax on a GPU or TPU")
    parser.add_argument("--provider", choices=PROVIDERS, help="of the ONNX graph (default: onnxruntime)")
    parser.add_argument("--precision", choices=PRECISIONS)


def runtime_options(args: argparse.Namespace) -> dict[str, Any]:
    """These flags as options of `SkimEngine`."""
    return {name: getattr(args, name) for name in ("runtime", "provider", "precision")}
