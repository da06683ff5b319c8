"""A model as a folder that clients of transformers' ONNX exports load: Optimum, transformers.js, or a bare runtime.

config.json, tokenizer.json, ...
onnx/model.onnx             float32
onnx/model_quantized.onnx   int8
onnx/model.onnx_data        the weights of a graph of 2 GB or more
SHA256SUMS                  digests of these; of graphs beside a model's weights, in onnx/

An embedder's graph gives the tokens' states, which such clients pool themselves, under both names that they know: last_hidden_state
first, then token_embeddings. Then comes sentence_embedding. The files of sentence-transformers beside it say how to pool.
"""

import json
import os
import pathlib
from collections.abc import Sequence

from etils import epath

from transkimmer_jax.checkpoints import config_file, files, folders, sentence_transformers, tokenizer_files
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.checkpoints.thresholds import storable_threshold
from transkimmer_jax.data import pipeline
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.models import heads
from transkimmer_jax.models.arguments import require_gates
from transkimmer_jax.models.outputs import LAST_HIDDEN_STATE, TOKEN_EMBEDDINGS
from transkimmer_jax.onnx import storage
from transkimmer_jax.onnx.graph import build
from transkimmer_jax.onnx.quantization import quantize
from transkimmer_jax.onnx.saved import FILES, GRAPH_FOLDER, mark


def export(
    model: str | os.PathLike, output: str | os.PathLike, *, precisions: Sequence[str] = ("float32",), threshold: float | None = None
) -> list[epath.Path]:
    """Write a model folder's graph to the folder `output`, whole or not at all.

    Args:
      model: a model folder or hub id.
      output: a new folder, an empty one, or an older export, which is replaced; local or in a bucket. The model folder itself, where it is
        local, gets the graphs beside its weights, and keeps its `config.json`, which transformers refuses of a skimming model.
      precisions: one or more of `FILES`.
      threshold: the graph's default, which the output's `config.json` then names too; none for the model folder itself, whose own
        stays. None: the model's.

    Returns:
      The files with graphs.

    Raises:
      ConfigError: a threshold for the model folder itself, of a dense model, or that is no finite number; precisions that are none.
      CheckpointError: no model there, one without a trained head, or one that cannot be compacted; `output` holds something else than an
        export, or graphs of another exporter.
      TrainingError: the disk is full.
    """
    threshold = storable_threshold(threshold)
    if isinstance(precisions, str) or not precisions or not set(precisions) <= set(FILES):
        raise ConfigError(f"precisions must be a list of one or more of {', '.join(FILES)}, not {precisions!r}")
    folder, target = resolve(os.fspath(model)), epath.Path(output)
    into_model = not files.is_remote(output) and pathlib.Path(output).resolve() == folder.resolve()
    if into_model and threshold is not None:
        raise ConfigError(
            f"a graph in {output} has the threshold of its config.json: give a new folder, or set that by evaluate --apply, and export then"
        )
    _require_replaceable(target, into_model)
    loaded = heads.load(folder, dense=None, complete=True)
    require_gates(loaded.arch, model, threshold)
    tokenizer = pipeline.load_tokenizer(folder, loaded.arch.vocab_size)
    # Transformers' own model of this type would not skim; the graph does, and its clients read the config for labels and sizes.
    saved = config_file.read(folder)
    settings = sentence_transformers.read_settings(folder, loaded.arch.head, saved.values)
    config = dict(saved.values) | settings.config_fields() | {"model_type": loaded.arch.backbone}
    if saved.label_names is not None and loaded.arch.head in ("sequence_classification", "token_classification"):
        config |= config_file.label_fields(saved.label_names)  # which a config may leave out where clients want them
    if threshold is not None and loaded.arch.skim is not None:
        config["skim"] = config_file.skim_values(loaded.arch.skim) | {"threshold": threshold}
        loaded.arch = loaded.arch.with_threshold(threshold)
    embeds = loaded.arch.head == "sentence_embedding"
    states = [LAST_HIDDEN_STATE, TOKEN_EMBEDDINGS] if embeds else []
    # Clients feed the graph what the tokenizer gives.
    reads_types = "token_type_ids" in tokenizer.model_input_names
    graph = build(loaded, outputs=[*states, *(output.name for output in loaded.outputs), "kept"], reads_types=reads_types)
    mark(graph, loaded)
    graphs = {"float32": lambda: graph, "int8": lambda: quantize(graph)}
    with folders.write_folder(target / GRAPH_FOLDER if into_model else target) as temporary:
        place = temporary if into_model else temporary / GRAPH_FOLDER
        place.mkdir(exist_ok=True)
        for precision in precisions:
            storage.save(graphs[precision](), place / FILES[precision])
        if not into_model:
            (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            length = config_file.read_length(folder, saved)
            for name, text in sentence_transformers.files_of(loaded.arch, length, settings).items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text(text, encoding="utf-8")
            inputs = [given.name for given in graph.graph.input if given.name != "threshold"]
            # As the graph reads texts. DeBERTa's tokenizers give token types, which no model of it reads.
            tokenizer_files.save(tokenizer, temporary, padding_side="right", model_max_length=length, model_input_names=inputs)
    return [target / GRAPH_FOLDER / FILES[precision] for precision in precisions]


def _require_replaceable(output: epath.Path, into_model: bool) -> None:
    """Raise `CheckpointError` where an export would delete what is none of ours: other graphs, or a model."""
    place = output / GRAPH_FOLDER if into_model else output
    entries = list(place.iterdir()) if place.is_dir() else []
    if not entries:
        return
    holds_export = {"config.json", GRAPH_FOLDER} <= {path.name for path in entries}
    holds_weights = any(path.suffix in (".safetensors", ".bin") for path in entries)
    if not into_model and (holds_weights or not holds_export):
        raise CheckpointError(f"{output} holds files and is no export to replace: choose a new folder")
    folders.require_replaceable(place)
