"""The dense model as other libraries compute it: what users have today."""

import contextlib
import functools
import io
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.batching import by_length
from transkimmer_jax.inference.onnx_runtime import padded
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.onnx import sessions
from transkimmer_jax.processors import available_processors

Arrays = dict[str, np.ndarray]
_NAMES = ("input_ids", "attention_mask", "token_type_ids")
# Of OpenVINO's int8: about the 300 samples that are nncf's default.
_CALIBRATION_BATCH, _CALIBRATION_BATCHES = 8, 38


class DenseModel:
    """A dense model's weights in transformers' own class, exported once for all runtimes that read ONNX."""

    def __init__(self, model: TranskimmerForSequenceClassification):
        self.arch = model.arch
        self._model = model
        self._inputs = _NAMES if model.arch.type_vocab_size > 1 else _NAMES[:2]

    def forward(self, runtime: str, precision: str, sample: TokenizedExamples) -> Callable[[Arrays], np.ndarray]:
        """A function from padded arrays [batch, length] to logits [batch, labels].

        Args:
          runtime, precision: of a contender.
          sample: examples on which OpenVINO's int8 is calibrated.
        """
        if runtime == "torch":
            return self._torch_forward()
        if runtime == "onnxruntime":
            return _session_forward(sessions.OnnxRuntimeSession(self._fused if precision == "float32" else self._fused_int8))
        if precision == "int8":
            batches = [{name: arrays[name] for name in self._inputs} for _, arrays in _batches(sample, _CALIBRATION_BATCH)]
            return _openvino_int8(self._exported, batches[:_CALIBRATION_BATCHES])
        return _session_forward(sessions.OpenVinoSession(self._exported, precision=precision))

    def run(self, forward: Callable[[Arrays], np.ndarray], examples: TokenizedExamples, batch_size: int) -> Callable[[], np.ndarray]:
        """A function that computes the logits [N, labels] of examples, in their order. Padding them is not part of it.

        Args:
          forward: see there.
          batch_size: examples of a batch, which are of about one length. 1: they come alone, in their order.
        """
        batches = list(_batches(examples, batch_size))

        def run() -> np.ndarray:
            logits = np.zeros((len(examples), self.arch.num_labels), np.float32)
            for members, arrays in batches:
                logits[members] = forward(arrays)
            return logits

        return run

    def _torch_forward(self) -> Callable[[Arrays], np.ndarray]:
        import torch

        torch.set_num_threads(available_processors())

        def forward(arrays: Arrays) -> np.ndarray:
            with torch.inference_mode():
                return self._torch(**{name: torch.from_numpy(arrays[name]) for name in self._inputs}).logits.numpy()

        return forward

    @functools.cached_property
    def _torch(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        with _quiet(), tempfile.TemporaryDirectory() as folder:
            self._model.save_pretrained(folder)
            return AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @functools.cached_property
    def _exported(self) -> onnx.ModelProto:
        import torch

        example = {name: torch.ones((2, 3), dtype=torch.int64) for name in self._inputs}
        file: Any = io.BytesIO()
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                self._torch, kwargs=example, f=file, dynamo=False, input_names=list(self._inputs), output_names=["logits"],
                dynamic_axes={name: {0: "batch", 1: "sequence"} for name in self._inputs},
            )  # fmt: skip
        return onnx.load_from_string(file.getvalue())

    @functools.cached_property
    def _fused(self) -> onnx.ModelProto:
        """With ONNX Runtime's operators for BERT: attention, LayerNorm with its sum, GELU."""
        from onnxruntime.transformers.optimizer import optimize_model

        with _quiet(), tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.onnx")
            onnx.save(self._exported, path)
            heads, size = self.arch.num_attention_heads, self.arch.hidden_size
            return optimize_model(os.fspath(path), "bert", num_heads=heads, hidden_size=size).model

    @functools.cached_property
    def _fused_int8(self) -> onnx.ModelProto:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with _quiet(), tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.onnx")
            # 7 bits, as ONNX Runtime's documentation advises for AVX2; those of this engine have as many.
            # Of the fused operators' outputs it cannot infer the type.
            options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
            quantize_dynamic(self._fused, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8, extra_options=options)
            return onnx.load(path)


def _batches(examples: TokenizedExamples, batch_size: int) -> Iterator[tuple[np.ndarray, Arrays]]:
    """Rows, and their padded arrays [batch, length] int64."""
    lengths, count = examples.lengths, len(examples)
    alone = [np.array([row]) for row in range(count)]
    for members in alone if batch_size == 1 else by_length(lengths, tokens=int(lengths.sum()), texts=batch_size):
        yield members, dict(zip(_NAMES, padded(examples, members, None), strict=True))


def _session_forward(session: sessions.Session) -> Callable[[Arrays], np.ndarray]:
    return lambda arrays: session.run(arrays["input_ids"], arrays["attention_mask"], arrays["token_type_ids"])["logits"]


def _openvino_int8(exported: onnx.ModelProto, sample: list[Arrays]) -> Callable[[Arrays], np.ndarray]:
    """Weights and activations in int8, with ranges that a sample has shown."""
    with _quiet():
        openvino = sessions.import_openvino()
        with sessions.without_telemetry():
            import nncf

        network = openvino.Core().read_model(exported.SerializeToString())
        quantized = nncf.quantize(network, nncf.Dataset(sample), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(sample))
    return _session_forward(sessions.OpenVinoSession(quantized))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what these tools log and print about their own work."""
    import logging

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
