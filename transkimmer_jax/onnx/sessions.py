"""Runtimes that compute a graph, behind one small interface."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Collection, Iterator
from typing import Any, Protocol

import numpy as np
import onnx

from transkimmer_jax import extras
from transkimmer_jax.errors import InferenceError
from transkimmer_jax.onnx.quantization import quantize

Graph = onnx.ModelProto | str | os.PathLike


class Session(Protocol):
    """A graph that is loaded and can be called."""

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray, threshold: float | None = None
    ) -> dict[str, np.ndarray]:
        """The graph's outputs by name, of a batch [batch, sequence] of integers.

        threshold: a token is kept where its margin exceeds this; None takes the graph's own. A dense model's graph has none.
        """


class OnnxRuntimeSession:
    """ONNX Runtime on the CPU."""

    def __init__(self, model: Graph, *, threads: int | None = None, precision: str = "float32"):
        """Load a graph.

        Args:
          model: the graph, or a file that holds it.
          threads: processors to compute on. None: all that the process may use.
          precision: 'float32' computes the graph as it is; 'int8' quantises it first.

        Raises:
          InferenceError: another precision.
        """
        import onnxruntime

        if precision not in ("float32", "int8"):
            raise InferenceError(f"ONNX Runtime computes in float32 or int8 on a CPU, not {precision!r}")
        if precision == "int8":
            model = quantize(model if isinstance(model, onnx.ModelProto) else onnx.load(model))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_threads()
        options.log_severity_level = 3  # its warnings are about its own rewriting of the graph
        content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else os.fspath(model)
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._has_threshold = "threshold" in {default.name for default in self._session.get_overridable_initializers()}

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray, threshold: float | None = None
    ) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        feeds = _feeds(self._inputs, input_ids, attention_mask, token_type_ids)
        if threshold is not None and self._has_threshold:
            feeds["threshold"] = np.array(threshold, np.float32)
        return dict(zip(self._outputs, self._session.run(None, feeds), strict=True))


class OpenVinoSession:
    """OpenVINO on the CPU (the extra `openvino`)."""

    def __init__(self, model: Any, *, threads: int | None = None, precision: str = "float32"):
        """Load a graph.

        Args:
          model: the graph, a file that holds it, or a network that OpenVINO has read.
          threads: processors to compute on. None: all that the process may use.
          precision: 'float32', or 'bfloat16' where the processor has instructions for it.

        Raises:
          InferenceError: OpenVINO is not installed; another precision, or one that the processor cannot compute in.
        """
        hints = {"float32": "f32", "bfloat16": "bf16"}
        if precision not in hints:
            raise InferenceError(f"OpenVINO computes in {' or '.join(hints)}, not {precision!r}")
        openvino = import_openvino()
        core = openvino.Core()
        if precision == "bfloat16" and not openvino_has_bfloat16():
            raise InferenceError("this processor has no instructions for bfloat16: leave --precision out, or choose int8 with onnxruntime")
        network = model
        if not isinstance(model, openvino.Model):
            network = core.read_model(model.SerializeToString() if isinstance(model, onnx.ModelProto) else pathlib.Path(model))
        self._threshold = _free_threshold(openvino, network)
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hints[precision],
            "INFERENCE_NUM_THREADS": threads or available_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = core.compile_model(network, "CPU", settings)
        self._inputs = {name for given in self._compiled.inputs for name in given.names}
        # An output also goes by the name of the node's value, 'NODE:0'.
        self._outputs = [next(name for name in output.names if ":" not in name) for output in self._compiled.outputs]

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray, threshold: float | None = None
    ) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        feeds = _feeds(self._inputs, input_ids, attention_mask, token_type_ids)
        if self._threshold is not None:
            feeds["threshold"] = self._threshold if threshold is None else np.array(threshold, np.float32)
        answers = self._compiled(feeds)
        return {name: answers[name] for name in self._outputs}


def available_threads() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _feeds(inputs: Collection[str], input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Those that a graph has an input for: a backbone without token types has none for these."""
    feeds = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    return {name: np.ascontiguousarray(values, np.int64) for name, values in feeds.items() if name in inputs}


def openvino_has_bfloat16() -> bool:
    """Whether OpenVINO finds instructions for bfloat16 in this processor. Raises `InferenceError` where it is not installed."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def import_openvino() -> Any:
    """The package. Raises `InferenceError` where it is not installed."""
    with extras.needed("openvino", "the runtime openvino", InferenceError), without_telemetry():
        import openvino
    return openvino


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Packages of OpenVINO that are imported in here find no telemetry, which would fork this process, a multi-threaded one, and take
    their stub of it."""
    telemetry = "openvino_telemetry"
    imported = sys.modules.get(telemetry)
    sys.modules[telemetry] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        sys.modules.pop(telemetry)
        if imported is not None:
            sys.modules[telemetry] = imported


def _free_threshold(openvino: Any, network: Any) -> np.ndarray | None:
    """Make the threshold an input and give its default. OpenVINO reads an input with a default as a constant."""
    constant = next((node for node in network.get_ops() if node.get_friendly_name() == "threshold"), None)
    if constant is None:
        return None
    default = np.array(constant.get_data())
    parameter = openvino.opset13.parameter([], np.float32, "threshold")
    parameter.output(0).set_names({"threshold"})
    constant.output(0).replace(parameter.output(0))
    network.add_parameters([parameter])
    network.validate_nodes_and_infer_types()
    return default
