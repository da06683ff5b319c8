"""The names of runtimes, providers and precisions. Light to import, so that `--help` can list them at once."""

RUNTIMES = ("onnx", "jax")
PROVIDERS = ("onnxruntime", "openvino")
PRECISIONS = ("float32", "bfloat16", "int8")
