"""Graphs that a model folder holds beside its weights, which spare an engine building and quantising them."""

import dataclasses
import hashlib
import logging
import pathlib

import jax
import numpy as np
import onnx
from flax import nnx

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.errors import first_line
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.onnx.storage import DATA_SUFFIX

GRAPH_FOLDER = "onnx"
FILES = {"float32": "model.onnx", "int8": "model_quantized.onnx"}
_MODEL = "transkimmer.model"  # the property of a graph that names what it was built from

logger = logging.getLogger("transkimmer_jax")


def mark(graph: onnx.ModelProto, model: TranskimmerPreTrainedModel) -> None:
    """Note in a graph which model it was built from."""
    onnx.helper.set_model_props(graph, {_MODEL: _fingerprint(model)})


def load(folder: pathlib.Path, precision: str, model: TranskimmerPreTrainedModel) -> onnx.ModelProto | None:
    """The graph of a model in this precision that its folder holds; None where there is none, or it is not this model's.

    Raises:
      CheckpointError: it is another file than this package exported, by the digests beside it.
    """
    path = folder / GRAPH_FOLDER / FILES.get(precision, "")
    if not path.is_file():
        return None
    try:
        graph = onnx.load(path)
    except Exception as error:  # protobuf's own, which are not public
        logger.warning("%s cannot be read (%s): the graph is built from the weights", path, first_line(error))
        return None
    marks = _marks(graph)
    if not marks:
        return None  # of another exporter, which computes every token
    for file in (path, path.with_name(path.name + DATA_SUFFIX)):
        if file.is_file():
            folders.verify(file)
    if _fingerprint(model) not in marks:
        logger.warning("%s is of other weights or another config.json than the folder's: the graph is built anew; export it again", path)
        return None
    return graph


def exported(folder: pathlib.Path) -> bool:
    """Whether a model's folder holds graphs, whose own thresholds are those that they were exported with."""
    return any((folder / GRAPH_FOLDER / file).is_file() for file in FILES.values())


def _marks(graph: onnx.ModelProto) -> list[str]:
    return [entry.value for entry in graph.metadata_props if entry.key == _MODEL]


def _fingerprint(model: TranskimmerPreTrainedModel) -> str:
    """The SHA-256 of all parameters, with their names, and of the architecture but for its threshold, which is an input of the graph."""
    skim = model.arch.skim and dataclasses.replace(model.arch.skim, threshold=0.0)
    total = hashlib.sha256(repr(dataclasses.replace(model.arch, skim=skim)).encode())
    for path, value in jax.tree_util.tree_leaves_with_path(nnx.split(model)[1]):
        array = np.ascontiguousarray(value)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes() if array.dtype == "bfloat16" else array.data)
    return total.hexdigest()
