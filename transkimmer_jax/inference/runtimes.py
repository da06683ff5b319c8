"""Where a network is computed: what an engine asks of a runtime, and which one it takes."""

import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import jax

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.inference import inputs
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.predictions import Predictions, Statistics
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.runtime_names import COMPUTES_IN, PRECISIONS, PROVIDERS, RUNTIMES


class Runtime(Protocol):
    """Computes a model on token ids, compacted and exact."""

    name: str
    statistics: Statistics

    def predict(self, examples: TokenizedExamples, threshold: float, progress: bool) -> Predictions:
        """Every example, in their order. progress: with a bar."""

    def set_calibration(self, calibration: Calibration) -> None:
        """Prepare for texts like those of a calibration, at thresholds from its own on. Answers do not depend on it."""

    def warm_up(self, lengths: Sequence[int] | None, progress: bool) -> None:
        """Do ahead of time what the first texts of these lengths would wait for; None: of any. progress: with a bar."""


def create(
    model: TranskimmerPreTrainedModel,
    *,
    max_length: int,
    runtime: str | None = None,
    precision: str | None = None,
    provider: str | None = None,
    threads: int | None = None,
    calibration: Calibration | None = None,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    devices: list[Any] | None = None,
    depths: bool = False,
    token_embeddings: bool = False,
    folder: pathlib.Path | None = None,
) -> Runtime:
    """The runtime of a model that a user asks for.

    Args:
      max_length: the most tokens of an example.
      runtime: 'onnx', one graph whose shapes follow the tokens, for CPUs; 'jax', compiled programs of fixed shapes, for GPUs and TPUs.
        None: by the devices at hand.
      precision: of weights and matrix products; norms, softmax and decisions are float32. 'float32'; 'int8' with ONNX Runtime;
        'bfloat16' with JAX and OpenVINO. None: float32 with onnx, the model's with jax. OpenVINO's bfloat16 is that of the whole graph,
        predictors and norms too, but for what lies behind the last product before an output. On a GPU or TPU JAX multiplies float32 in
        fewer bits, but for predictors, unless `jax_default_matmul_precision` is "highest".
      provider: of the onnx runtime, 'onnxruntime' or 'openvino'. None: the first.
      threads: of the onnx runtime; None: as many as processors that the process may use.
      calibration: what to expect, for the jax runtime; None: it finds out.
      batch_tokens: tokens of a batch on each device; None: what suits the hardware.
      batch_size: texts of a batch at most; of the jax runtime, instead of tokens: as many as so many texts of the greatest length in it.
      devices: of the jax runtime; None: all local ones, each of which computes batches of its own.
      depths: also report how many layers computed each token.
      token_embeddings: of an embedder, also give each token's final state.
      folder: where the model is from, and where the onnx runtime finds a graph that was exported beside it.

    Raises:
      CheckpointError: a model that cannot be compacted.
      ConfigError: no such runtime, provider or precision, or options that do not go together.
    """
    inputs.checked_choice(runtime, "runtime", RUNTIMES)
    inputs.checked_choice(provider, "provider", PROVIDERS)
    inputs.checked_choice(precision, "precision", PRECISIONS)
    if token_embeddings and model.head != "sentence_embedding":
        raise ConfigError(f"token_embeddings are of an embedder, and this model is for {model.head.replace('_', ' ')}: leave them out")
    batch_tokens, batch_size = inputs.checked_batch(batch_tokens, batch_size)
    if threads is not None:
        inputs.checked_size(threads, "threads")
    if runtime is None:
        runtime = "jax" if devices is not None or jax.default_backend() != "cpu" else "onnx"
    others = (("provider", provider), ("threads", threads)) if runtime == "jax" else (("devices", devices),)
    for name, value in others:
        if value is not None:
            raise ConfigError(f"{name} is of another runtime than {runtime!r}: leave it out, or choose that runtime")
    computing = "jax" if runtime == "jax" else provider or PROVIDERS[0]
    if precision not in (None, *COMPUTES_IN[computing]):
        raise ConfigError(f"{computing} computes in {' or '.join(COMPUTES_IN[computing])}, not in {precision}")
    model.require_compactable()
    options: dict[str, Any] = {
        "batch_tokens": batch_tokens, "batch_size": batch_size, "depths": depths, "token_embeddings": token_embeddings,
    }  # fmt: skip
    # Imported here, so that neither runtime waits for the other's libraries.
    if runtime == "jax":
        from transkimmer_jax.inference.jax_runtime import JaxRuntime

        return JaxRuntime(model, max_length=max_length, precision=precision, calibration=calibration, devices=devices, **options)
    from transkimmer_jax.inference.onnx_runtime import OnnxRuntime

    return OnnxRuntime(model, precision=precision or "float32", provider=computing, threads=threads, folder=folder, **options)
