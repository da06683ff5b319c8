"""The names of runtimes, providers and precisions. Light to import, so that `--help` can list them at once."""

RUNTIMES = ("onnx", "jax")
PROVIDERS = ("onnxruntime", "openvino")
PLATFORMS = ("cpu", "cuda", "tpu")  # of programs that `export` writes
PRECISIONS = ("float32", "bfloat16", "int8")
# What the JAX runtime, and each provider of the other one, computes in.
COMPUTES_IN: dict[str, tuple[str, ...]] = {
    "jax": ("float32", "bfloat16"),
    "onnxruntime": ("float32", "int8"),
    "openvino": ("float32", "bfloat16"),
}
