"""Runtimes that compute a graph on a CPU, behind one small interface."""

import abc
import contextlib
import os
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import numpy as np
import onnx

from transkimmer_jax import extras
from transkimmer_jax.errors import InferenceError
from transkimmer_jax.onnx import storage
from transkimmer_jax.onnx.quantization import quantize
from transkimmer_jax.processors import available_processors
from transkimmer_jax.runtime_names import COMPUTES_IN


class Session(abc.ABC):
    """A graph that is loaded and can be called, by several threads at a time."""

    provider: ClassVar[str]
    _inputs: Collection[str]
    _threshold: np.ndarray | None  # the graph's own; None of a dense model

    def __init__(self, model: Any, *, threads: int | None = None, precision: str = "float32"):
        """Load a graph.

        Args:
          model: the graph, or a file that holds it.
          threads: processors to compute on. None: all that the process may use.
          precision: one of `COMPUTES_IN` of the provider.

        Raises:
          InferenceError: another precision, or one that the processor cannot compute in; the provider is not installed.
        """
        if precision not in COMPUTES_IN[self.provider]:
            raise InferenceError(f"{self.provider} computes in {' or '.join(COMPUTES_IN[self.provider])}, not {precision!r}")
        self._load(model, threads or available_processors(), precision)

    @abc.abstractmethod
    def _load(self, model: Any, threads: int, precision: str) -> None:
        """Prepare for `_compute`, and say which inputs there are."""

    @abc.abstractmethod
    def _compute(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs by name, of all its inputs."""

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray, threshold: float | None = None
    ) -> dict[str, np.ndarray]:
        """The graph's outputs by name, of a batch [batch, sequence] of integers.

        threshold: a token is kept where its margin exceeds this; None takes the graph's own. A dense model's graph has none.
        """
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        # A backbone without token types has no input for these.
        feeds = {name: np.ascontiguousarray(values, np.int64) for name, values in arrays.items() if name in self._inputs}
        if self._threshold is not None:
            feeds["threshold"] = self._threshold if threshold is None else np.array(threshold, np.float32)
        return self._compute(feeds)


class OnnxRuntimeSession(Session):
    """ONNX Runtime. For int8 it quantises the graph first."""

    provider = "onnxruntime"

    def _load(self, model: onnx.ModelProto | str | os.PathLike, threads: int, precision: str) -> None:
        import onnxruntime

        graph = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
        if precision == "int8":
            graph = quantize(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # its warnings are about its own rewriting of the graph
        with storage.loadable(graph) as stored:
            self._session = onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = {given.name for given in self._session.get_inputs()}
        defaults = {default.name for default in self._session.get_overridable_initializers()}
        weights = (weight for weight in graph.graph.initializer if weight.name == "threshold")
        self._threshold = onnx.numpy_helper.to_array(next(weights)) if "threshold" in defaults else None

    def _compute(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, feeds), strict=True))


class OpenVinoSession(Session):
    """OpenVINO (the extra `openvino`), also of a network that it has read. In bfloat16 where the processor has instructions for it."""

    provider = "openvino"

    def _load(self, model: Any, threads: int, precision: str) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        if precision == "bfloat16" and not openvino_has_bfloat16():
            raise InferenceError("this processor has no instructions for bfloat16: leave --precision out, or choose int8 with onnxruntime")
        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        stored = storage.loadable(model) if isinstance(model, onnx.ModelProto) else contextlib.nullcontext(model)
        with stored as source:
            network = source if isinstance(source, openvino.Model) else core.read_model(source)
            self._threshold = _free_threshold(openvino, network)
            self._compiled = core.compile_model(network, "CPU", settings)
        self._idle: list[Any] = []  # requests that no thread is using: one computes for one thread at a time, and costs memory
        self._inputs = {name for given in self._compiled.inputs for name in given.names}
        # An output also goes by the name of the node's value, 'NODE:0'.
        self._outputs = [next(name for name in output.names if ":" not in name) for output in self._compiled.outputs]

    def _compute(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        answers = request.infer(feeds, share_inputs=True)
        self._idle.append(request)
        return {name: answers[name] for name in self._outputs}


def openvino_has_bfloat16() -> bool:
    """Whether OpenVINO finds instructions for bfloat16 in this processor. Raises `InferenceError` where it is not installed."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


_IMPORTING = threading.Lock()  # what `without_telemetry` changes is the whole process's


def import_openvino() -> Any:
    """The package. Raises `InferenceError` where it is not installed."""
    with _IMPORTING, extras.needed("openvino", "the runtime openvino", InferenceError), without_telemetry():
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
