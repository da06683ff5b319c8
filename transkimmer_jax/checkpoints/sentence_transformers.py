"""Folders of sentence-transformers, read and written: how vectors are pooled, how much is read of a text, prompts, and scores.

modules.json                         what the model consists of
1_Pooling/config.json                how vectors are pooled
sentence_bert_config.json            max_seq_length; newer folders leave it to tokenizer_config.json
config_sentence_transformers.json    prompts, how vectors are cut and compared, and what scores are; older ones leave scores to config.json
"""

import dataclasses
import json
import pathlib
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from transkimmer_jax.checkpoints import tokenizer_files
from transkimmer_jax.checkpoints.json_files import read_object, read_value, require_plain_name
from transkimmer_jax.checkpoints.schema import Choice, Field, Integer, Section, listed, problems, shown
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture

MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
SETTINGS_FILE = "config_sentence_transformers.json"
FILES = (MODULES_FILE, SETTINGS_FILE, "sentence_*_config.json")  # patterns of names, but for those of the folders of modules
POOLING_FOLDER, NORMALIZE_FOLDER = "1_Pooling", "2_Normalize"
_MOST_BYTES, _MOST_TOKENIZER_BYTES = 2**20, 2**26  # tokenizers list their added tokens, or all of them
_EMBEDDER, _CROSS_ENCODER = "SentenceTransformer", "CrossEncoder"  # model_type
_KINDS = {"sentence_embedding": _EMBEDDER, "sequence_classification": _CROSS_ENCODER}  # by head
_PROMPTS = {"sentence_embedding": {"query": "", "document": ""}}  # by head: those that the library's models have, whatever a folder says
_SECTION, _OLD_ACTIVATION = "sentence_transformers", "sbert_ce_default_activation_function"  # in a cross-encoder's config.json
_ORDER = ("Transformer", "Pooling", "Normalize")
# Has the library take a classifier's logits.
_LOGITS = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}
# Flags of older files; the first two are what this program computes.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Older folders name the file by the backbone.
_BACKBONES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_LONGEST = 2**20  # tokens; tokenizers without a limit name a much larger number
_BOOLEAN = Choice((True, False))
_POOLING = Section({name: Field(_BOOLEAN) for name in (*_FLAGS, "include_prompt")})
_WIDTH = Section({"truncate_dim": Field(Integer(1, _LONGEST))})
_LENGTH = Section({"max_seq_length": Field(Integer(1, _LONGEST)), "do_lower_case": Field(_BOOLEAN)})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a folder has sentence-transformers do with its model.

    prompts: texts that stand before inputs of a kind, by its name. default_prompt: the name of that of inputs of no named kind; None: they
    have none. similarity: of vectors, as the library names it. truncate_dim: columns of a vector that `encode` gives; None: all.
    activation: of a cross-encoder's logits, the name of torch's class; None: the library's own choice.
    """

    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None
    activation: str | None = None

    @property
    def default_text(self) -> str:
        """The default prompt itself; '' for none."""
        return "" if self.default_prompt is None else self.prompts[self.default_prompt]

    def for_head(self, head: str) -> "Settings":
        """These, with the prompts that a model with this head has besides."""
        return dataclasses.replace(self, prompts={**_PROMPTS.get(head, {}), **self.prompts})

    @property
    def raw_scores(self) -> bool | None:
        """Whether a cross-encoder's scores are its logits, or else their sigmoids; None: they are neither."""
        name = "Sigmoid" if self.activation is None else self.activation.rpartition(".")[2]
        return {"Identity": True, "Sigmoid": False}.get(name)

    def config_fields(self) -> dict[str, Any]:
        """Entries of `config.json` that say what a cross-encoder's scores are, which also the library's versions before 6 read."""
        return {} if self.activation is None else {_SECTION: {"activation_fn": self.activation}}


def is_embedder(folder: pathlib.Path) -> bool:
    """Whether sentence-transformers has written this folder."""
    return (folder / MODULES_FILE).is_file()


def read_pooling(folder: pathlib.Path) -> PoolingArchitecture:
    """How the vectors of a folder with a `modules.json` are made.

    Raises:
      CheckpointError: files that are missing or hold something else, or modules and poolings that this program does not compute.
    """
    where = folder / MODULES_FILE
    modules = read_value(where, _MOST_BYTES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) and isinstance(module.get("type"), str) for module in modules):
        raise CheckpointError(f"{where} must hold a list of modules, each with a type")
    kinds = _kinds(modules)
    if kinds not in (list(_ORDER), list(_ORDER[:2])):
        raise CheckpointError(f"{where} names the modules {shown(kinds)}: supported are Transformer, Pooling and, behind these, Normalize")
    paths = [posixpath.normpath(path) if isinstance(path, str) and path else path for path in (module.get("path") for module in modules)]
    if paths[0] not in (None, "", "."):
        raise CheckpointError(f"{where}: the encoder lies in {shown(modules[0]['path'])}, not beside it: move its files here")
    require_plain_name(paths[1], where)
    path = folder / paths[1] / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, and {where} names it: restore it, or give pooling='mean' or pooling='cls'")
    return PoolingArchitecture(_mode(read_object(path, _MOST_BYTES), path), normalize=len(kinds) == 3)


def _kinds(modules: Any) -> list[str]:
    """Of a list of modules."""
    return [str(module.get("type")).rpartition(".")[2] for module in modules if isinstance(module, dict)]


def _mode(values: Mapping[str, Any], path: pathlib.Path) -> str:
    wrong = problems(values, _POOLING)
    if wrong:
        raise CheckpointError(f"{path}: {listed(wrong)}")
    if values.get("include_prompt") is False:
        raise CheckpointError(f"{path}: include_prompt=false is not supported: prompts are pooled like other tokens")
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _FLAGS.items() if values.get(flag)] or ["mean"]
    modes = modes if isinstance(modes, list) else [modes]
    if modes not in (["mean"], ["cls"]):
        raise CheckpointError(f"{path}: pooling {' and '.join(map(shown, modes))} is not supported, only 'mean' or 'cls'")
    return modes[0]


def read_max_length(folder: pathlib.Path) -> int | None:
    """Tokens that are read of a text; None where the folder does not say. Raises `CheckpointError` for a file that cannot be meant."""
    names = [LENGTH_FILE, *(f"sentence_{backbone}_config.json" for backbone in _BACKBONES)]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return _tokenizer_length(folder)
    values = {name: value for name, value in read_object(path, _MOST_BYTES).items() if value is not None}
    wrong = problems(values, _LENGTH)
    if values.get("do_lower_case") and not _lowercases(folder):
        wrong.append("do_lower_case=true is not supported: have the tokenizer lowercase")
    if wrong:
        raise CheckpointError(f"{path}: {listed(wrong)}")
    return values.get("max_seq_length") or _tokenizer_length(folder)


def _lowercases(folder: pathlib.Path) -> bool:
    """Whether a folder's tokenizer lowercases by itself, so that `do_lower_case` asks for nothing more."""
    path = folder / tokenizer_files.STATE_FILE
    if not path.is_file():
        path = folder / tokenizer_files.CONFIG_FILE
        return path.is_file() and read_object(path, _MOST_TOKENIZER_BYTES).get("do_lower_case") is True
    normalizer = read_object(path, _MOST_TOKENIZER_BYTES).get("normalizer")
    several = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    steps = several if isinstance(several, list) else [normalizer]
    return any(isinstance(step, dict) and (step.get("type") == "Lowercase" or step.get("lowercase") is True) for step in steps)


def _tokenizer_length(folder: pathlib.Path) -> int | None:
    """What a tokenizer says, if it has a limit."""
    path = folder / tokenizer_files.CONFIG_FILE
    length = read_object(path, _MOST_TOKENIZER_BYTES).get("model_max_length") if path.is_file() else None
    return length if isinstance(length, int) and 0 < length <= _LONGEST else None


def read_normalize(folder: pathlib.Path) -> bool:
    """Whether the modules of a folder end in one that gives vectors the length 1."""
    path = folder / MODULES_FILE
    modules = read_value(path, _MOST_BYTES) if path.is_file() else None
    return isinstance(modules, list) and _kinds(modules)[-1:] == [_ORDER[-1]]


def read_settings(folder: pathlib.Path, head: str, config: Mapping[str, Any]) -> Settings:
    """What a folder says of a model with this head; config: the content of its `config.json`.

    A file that was written for a model of another kind says nothing, as to the library: a reranker's prompts are none of an embedder.
    Models with other heads read no prompts. An embedder has the prompts 'query' and 'document', '' where its file names none.

    Raises:
      CheckpointError: a file that cannot be meant.
    """
    path = folder / SETTINGS_FILE
    values = read_object(path, _MOST_BYTES) if path.is_file() else {}
    if values.get("model_type", _EMBEDDER) != _KINDS.get(head):
        values = {}
    prompts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise CheckpointError(f"{path}: prompts must be texts by name, not {shown(prompts)}")
    similarity = values.get("similarity_fn_name") or Settings.similarity
    if not isinstance(similarity, str):
        raise CheckpointError(f"{path}: similarity_fn_name must be a name, not {shown(similarity)}")
    wrong = problems(values, _WIDTH)
    if wrong:
        raise CheckpointError(f"{path}: {listed(wrong)}")
    activation = values.get("activation_fn") or _activation(config)
    activation = activation if isinstance(activation, str) else None
    settings = Settings(prompts, default, similarity, values.get("truncate_dim"), activation).for_head(head)
    if default is not None and (not isinstance(default, str) or default not in settings.prompts):
        raise CheckpointError(f"{path}: default_prompt_name={shown(default)} is none of the prompts {shown(sorted(settings.prompts))}")
    return settings


def _activation(config: Mapping[str, Any]) -> Any:
    """What a `config.json` says of a cross-encoder's scores."""
    section = config.get(_SECTION)
    return section.get("activation_fn") if isinstance(section, dict) else config.get(_OLD_ACTIVATION)


def files_of(arch: Architecture, max_length: int, settings: Settings) -> dict[str, str]:
    """What makes a saved model a folder of sentence-transformers, beside `config.json`: texts by the names of files.

    Of an embedder, how to pool is said in both spellings. A folder for `2_Normalize` is not needed: there is nothing in it. A cross-encoder
    needs such files for its prompts alone, and a model with another head has none.
    """
    prompts = {"prompts": dict(settings.prompts), "default_prompt_name": settings.default_prompt}
    if arch.head == "sentence_embedding":
        contents = _of_embedder(arch, max_length) | {SETTINGS_FILE: prompts | {"similarity_fn_name": settings.similarity}}
        if settings.truncate_dim is not None:
            contents[SETTINGS_FILE]["truncate_dim"] = settings.truncate_dim
    elif arch.head == "sequence_classification" and settings.prompts:
        contents = {
            MODULES_FILE: _modules(_ORDER[:1]),
            LENGTH_FILE: _LOGITS | {"max_seq_length": max_length},
            SETTINGS_FILE: prompts | {"model_type": _CROSS_ENCODER, "activation_fn": settings.activation},
        }
    else:
        contents = {}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}


def _of_embedder(arch: Architecture, max_length: int) -> dict[str, Any]:
    """Contents of files by their names."""
    return {
        MODULES_FILE: _modules(_ORDER if arch.pooling.normalize else _ORDER[:2]),
        f"{POOLING_FOLDER}/config.json": {
            "word_embedding_dimension": arch.hidden_size,
            "pooling_mode": arch.pooling.mode,
            **{flag: mode == arch.pooling.mode for flag, mode in _FLAGS.items()},
            "include_prompt": True,
        },
        LENGTH_FILE: {"max_seq_length": max_length, "do_lower_case": False},
    }


def _modules(kinds: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, ("", POOLING_FOLDER, NORMALIZE_FOLDER), strict=False))
    ]
