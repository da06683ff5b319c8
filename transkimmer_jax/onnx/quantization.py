"""Graphs in int8 (dynamic quantisation: weights now, activations as they come)."""

import pathlib
import tempfile

import onnx

from transkimmer_jax.onnx import storage


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the matrix products of its layers in int8, by ONNX Runtime's own tool.

    The predictors, the embeddings and the head stay in float32: a margin that is rounded moves tokens across the threshold, and the rest is
    hardly any work. So do the maps of `skim.forwarding=linear`, one H x H product for each skimmed token, and, where the head reads
    position 0, the last layer's products of keys and values, which lie in stacks of matrices, one a head; and, for the same reason, the
    products with distances of disentangled attention.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # The tool's own preparation folds constants and infers shapes, of which this graph has nothing to gain; the mark spares its warning.
    onnx.helper.set_model_props(prepared, {"onnx.quant.pre_process": "onnxruntime.quant"})
    # The last layer also multiplies by stacks of matrices, one a head; of those the tool makes a graph that cannot run.
    matrices = {weight.name for weight in model.graph.initializer if len(weight.dims) == 2 and weight.name.startswith("layers.")}
    products = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices]
    with tempfile.TemporaryDirectory() as folder:
        path, whole = pathlib.Path(folder, "quantized.onnx"), pathlib.Path(folder, "whole.onnx")
        storage.save(prepared, whole)
        del prepared  # as large as the model; the tool reads the file
        # 7 bits: AVX2 adds two products of 8 bits in 16, which would saturate.
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=products,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=storage.is_large(model),
        )
        quantized = onnx.load(path)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    return quantized
