"""The network as one ONNX graph whose shapes follow the tokens that are kept: what a CPU wants."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.errors import InferenceError
from transkimmer_jax.inference.batching import by_length
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import (
    BFLOAT16_GRAPH_ROWS,
    BFLOAT16_GRAPH_WIDTH_MULTIPLE,
    GRAPH_PAIRS_PER_TOKEN,
    GRAPH_SCORES,
    THREAD_TOKENS,
)
from transkimmer_jax.inference.predictions import Predictions, Statistics
from transkimmer_jax.models.outputs import with_token_embeddings
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.onnx import saved
from transkimmer_jax.onnx.graph import build
from transkimmer_jax.onnx.sessions import OnnxRuntimeSession, OpenVinoSession, Session
from transkimmer_jax.processors import available_processors
from transkimmer_jax.progress import predicting

_SESSIONS: dict[str, Callable[..., Session]] = {"onnxruntime": OnnxRuntimeSession, "openvino": OpenVinoSession}


class OnnxRuntime:
    """A graph, built in memory from a model's parameters or read from its folder (see `Runtime`). Nothing overflows, so nothing need be
    expected.

    Arguments are those of `runtimes.create`.
    """

    name = "onnx"

    def __init__(
        self,
        model: TranskimmerPreTrainedModel,
        *,
        precision: str = "float32",
        provider: str = "onnxruntime",
        threads: int | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        depths: bool = False,
        token_embeddings: bool = False,
        folder: pathlib.Path | None = None,
    ):
        self.statistics = Statistics()
        self._arch, self._depths = model.arch, depths
        self._tokens, self._texts = batch_tokens or THREAD_TOKENS[provider] * (threads or available_processors()), batch_size
        self._pairs = GRAPH_SCORES // model.arch.scores_per_pair
        self._sizes = BFLOAT16_GRAPH_ROWS if precision == "bfloat16" else None
        self._outputs = with_token_embeddings(model.outputs, model.arch.hidden_size) if token_embeddings else model.outputs
        # An exported graph gives states of all tokens, for which a model that reads position 0 alone would compute more.
        reads_first = model.arch.head == "sentence_embedding" and not model.arch.reads_every_token and not token_embeddings
        graph = None if folder is None or depths or reads_first else saved.load(folder, precision, model)
        if graph is not None and {output.name for output in self._outputs} <= {output.name for output in graph.graph.output}:
            precision = "float32"  # what is quantised already is computed as it is
        else:
            names = [output.name for output in self._outputs]
            wanted = [*names, "kept", *(["depth"] if depths else [])]
            options: dict[str, Any] = {}
            if precision == "bfloat16":
                options = {"row_sizes": self._sizes, "width_multiple": BFLOAT16_GRAPH_WIDTH_MULTIPLE}
                options |= {"table_dtype": TensorProto.BFLOAT16}  # OpenVINO would look up rows in float32, and round each of them
            graph = build(model, outputs=wanted, **options)
        self._ignores_types = model.arch.type_vocab_size > 1 and "token_type_ids" not in {given.name for given in graph.graph.input}
        self._session = _SESSIONS[provider](graph, threads=threads, precision=precision)

    def predict(self, examples: TokenizedExamples, threshold: float, progress: bool) -> Predictions:
        """Every example, in their order, in batches that attention sees not much wider than they are."""
        if self._ignores_types and examples.token_type_ids.any():
            raise InferenceError(
                "the folder's graph reads no token types, as its tokenizer gives none: set examples.token_type_ids to 0, or delete onnx/"
            )
        lengths, count = examples.lengths, len(examples)
        answers = Predictions.empty(self._outputs, self._arch.num_hidden_layers, lengths, self._depths)
        with predicting(count, progress) as bar:
            for members in by_length(lengths, self._tokens, self._texts or count, self._sizes, self._pairs, GRAPH_PAIRS_PER_TOKEN):
                ids, mask, types = padded(examples, members)
                outputs = self._session.run(ids, mask, types, threshold)
                answers.kept[:, members] = outputs["kept"]
                for output in self._outputs:
                    if output.per_token:
                        answers.outputs[output.name][examples.places(members)] = outputs[output.name][mask.astype(bool)]
                    else:
                        answers.outputs[output.name][members] = outputs[output.name]
                if answers.depths is not None:
                    for member, depth in zip(members.tolist(), outputs["depth"], strict=True):
                        answers.depths[member] = depth[: lengths[member]]
                self.statistics.add(batches=1)
                bar.update(len(members))
        self.statistics.add(examples=count)
        return answers

    def set_calibration(self, calibration: Calibration) -> None:
        """Nothing depends on it."""

    def warm_up(self, lengths: Sequence[int] | None, progress: bool) -> None:
        """The graph is ready."""


def padded(examples: TokenizedExamples, members: np.ndarray, width: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """input_ids, attention_mask and token_type_ids int64 [batch, width] of some examples; None: as wide as the longest."""
    starts, ends = examples.offsets[members, None], examples.offsets[members + 1, None]
    places = starts + np.arange(width or (ends - starts).max())
    mask = (places < ends).astype(np.int64)
    places = np.minimum(places, len(examples.input_ids) - 1)
    return examples.input_ids[places] * mask, mask, examples.token_type_ids[places] * mask
