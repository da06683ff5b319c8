"""A small builder over `onnx.helper`: an operator is a call that gives the name of its output."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = 17  # the first with LayerNormalization; runtimes of the last years read it
IR_VERSION = 8  # the file format that came with it
PRODUCER = "transkimmer_jax"
_FLOATS: dict[int, Any] = {TensorProto.FLOAT: np.float32, TensorProto.BFLOAT16: jnp.bfloat16}


class GraphBuilder:
    """Writes the nodes, constants, inputs and outputs of a graph. A value is known by its name, a str."""

    def __init__(self) -> None:
        empty = helper.make_graph([], "transkimmer", [], [])
        opsets = [helper.make_opsetid("", OPSET)]
        # Filled in place: messages copy what they are made of, and the weights would be in memory three times.
        self._model = helper.make_model(empty, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
        self._graph = self._model.graph
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._scopes: list[str] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes and constants that are made in here have names that begin with `name` and a slash."""
        self._scopes.append(name)
        yield
        self._scopes.pop()

    def input(self, name: str, dtype: int, shape: tuple[str | int, ...]) -> str:
        """An input of the graph. dtype: of `onnx.TensorProto`; shape: numbers, or names of dimensions that vary."""
        self._graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def optional_input(self, name: str, default: np.ndarray) -> str:
        """An input that a caller may leave out: an initializer of the same name is its default."""
        self._initializer(name, default)
        return self.input(name, helper.np_dtype_to_tensor_dtype(default.dtype), default.shape)

    def output(self, value: str, name: str, dtype: int, shape: tuple[str | int, ...]) -> None:
        """Make `value` the graph's output `name`. No node may read it after this."""
        for node in self._graph.node:
            for names in (node.input, node.output):
                names[:] = [name if other == value else other for other in names]
        self._graph.output.append(helper.make_tensor_value_info(name, dtype, shape))

    def weight(self, name: str, array: np.ndarray, dtype: int = TensorProto.FLOAT) -> str:
        """A constant, as large as it may be. dtype: FLOAT or BFLOAT16 of `onnx.TensorProto`."""
        name = "/".join([*self._scopes, name])
        self._initializer(name, np.asarray(array, _FLOATS[dtype]), dtype)
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small constant; equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._small:
            self._small[key] = f"constants/{len(self._small)}"
            self._initializer(self._small[key], array)
        return self._small[key]

    def _initializer(self, name: str, array: np.ndarray, dtype: int | None = None) -> None:
        # In place, as the model itself.
        tensor = self._graph.initializer.add()
        tensor.name, tensor.raw_data = name, array.tobytes()
        tensor.data_type = dtype or helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.dims.extend(array.shape)

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The output of a node."""
        return self.ops(operator, *inputs, outputs=1, **attributes)[0]

    def ops(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """The outputs of a node that has several."""
        name = "/".join([*self._scopes, f"{operator}_{len(self._graph.node)}"])
        names = [f"{name}:{index}" for index in range(outputs)]
        self._graph.node.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names

    def model(self) -> onnx.ModelProto:
        """The model as far as it is written; nothing more may be."""
        return self._model
