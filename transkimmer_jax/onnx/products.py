"""Dense layers, norms and activations of a graph."""

import math

import numpy as np
from flax import nnx

from transkimmer_jax.models.encoder import SelfAttention
from transkimmer_jax.onnx.builder import GraphBuilder


def norm(g: GraphBuilder, module: nnx.LayerNorm, x: str, name: str) -> str:
    """LayerNorm over the last axis."""
    by_name = {part: getattr(module, part) for part in ("scale", "bias")}
    weights = [g.weight(f"{name}.{part}", array(parameter)) for part, parameter in by_name.items() if parameter is not None]
    return g.op("LayerNormalization", x, *weights, axis=-1, epsilon=module.epsilon)


def gelu(g: GraphBuilder, x: str) -> str:
    """GELU with the error function, in the form that runtimes know and compute as one operator."""
    below = g.op("Add", g.op("Erf", g.op("Div", x, g.constant(math.sqrt(2), np.float32))), g.constant(1, np.float32))
    return g.op("Mul", g.op("Mul", x, below), g.constant(0.5, np.float32))


def activation(g: GraphBuilder, name: str, x: str) -> str:
    """See `models.layers.activation`."""
    return gelu(g, x) if name == "gelu" else g.op({"tanh": "Tanh", "relu": "Relu"}[name], x)


def linear(g: GraphBuilder, module: nnx.Linear, x: str, name: str) -> str:
    """A dense layer of the model."""
    return affine(g, x, *parameters(module), name)


def affine(g: GraphBuilder, x: str, kernel: np.ndarray, bias: np.ndarray | None, name: str) -> str:
    """x @ kernel + bias."""
    product = g.op("MatMul", x, g.weight(f"{name}.kernel", kernel))
    return product if bias is None else g.op("Add", product, g.weight(f"{name}.bias", bias))


def flat(g: GraphBuilder, x: str) -> str:
    """All elements in one row."""
    return g.op("Reshape", x, g.constant([-1]))


def head_size(attention: SelfAttention) -> int:
    return attention.query.kernel.shape[1] // attention.num_heads


def scaled_query(attention: SelfAttention) -> tuple[np.ndarray, np.ndarray | None]:
    """The query's kernel and bias, divided by what scores are divided by."""
    kernel, bias = parameters(attention.query)
    scale = math.sqrt(attention.products * head_size(attention))
    return kernel / scale, None if bias is None else bias / scale


def parameters(module: nnx.Linear) -> tuple[np.ndarray, np.ndarray | None]:
    return array(module.kernel), None if module.bias is None else array(module.bias)


def array(parameter) -> np.ndarray:
    return np.asarray(parameter[...], np.float32)
