"""Graphs as files and as what runtimes load, of any size: a message of protobuf holds 2 GiB, so the weights of a larger graph lie in a
file beside it."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import external_data_helper, helper

MOST_BYTES = 1_900_000_000  # of weights in the message itself, of which nodes and small constants leave the rest
DATA_SUFFIX = "_data"  # of the file of weights, behind the graph's file name: where Optimum looks for it
_SMALL = 1024  # bytes of a constant that stays in the message, where shapes are inferred from it


def is_large(graph: onnx.ModelProto) -> bool:
    """Whether the weights exceed what one message holds."""
    return sum(map(_size, graph.graph.initializer)) > MOST_BYTES


def save(graph: onnx.ModelProto, path: pathlib.Path) -> None:
    """Write a graph to a new file, and the weights of a large one beside it."""
    if not is_large(graph):
        onnx.save(graph, path)
        return
    data = path.with_name(path.name + DATA_SUFFIX)
    for tensor in graph.graph.initializer:
        if _size(tensor) >= _SMALL and tensor.HasField("raw_data"):  # scales of int8 have none
            external_data_helper.set_external_data(tensor, data.name)
    onnx.save(graph, path)
    data.chmod(0o644)  # onnx's 0600 would keep colleagues from reading it
    external_data_helper.load_external_data_for_model(graph, str(path.parent))  # saving has taken the weights out of the graph


@contextlib.contextmanager
def loadable(graph: onnx.ModelProto) -> Iterator[bytes | str]:
    """What runtimes load a graph from: its bytes, or the name of a large one's file, which lasts as long as the context."""
    if not is_large(graph):
        yield graph.SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="transkimmer-") as folder:
        path = pathlib.Path(folder, "model.onnx")
        save(graph, path)
        yield str(path)


def _size(tensor: onnx.TensorProto) -> int:
    """Bytes of its values, without a copy of them."""
    return int(np.prod(tensor.dims, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
