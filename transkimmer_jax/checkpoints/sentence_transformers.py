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
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from transkimmer_jax.checkpoints import tokenizer_files
from transkimmer_jax.checkpoints.config_schema import Section, validated
from transkimmer_jax.checkpoints.json_files import read_object, read_value, require_plain_name
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture
from transkimmer_jax.validation import shown

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
_Length = Annotated[int, Field(ge=1, le=_LONGEST)]


class _Module(Section):
    """An entry of `modules.json`."""

    type: str
    path: Any = None

    @property
    def kind(self) -> str:
        return self.type.rpartition(".")[2]

    @property
    def place(self) -> Any:
        return posixpath.normpath(self.path) if isinstance(self.path, str) and self.path else self.path


class _Modules(Section):
    modules: list[_Module]


def _one_mode(mode: str | list[str]) -> str:
    modes = mode if isinstance(mode, list) else [mode]
    if modes not in (["mean"], ["cls"]):
        raise ValueError("only 'mean' or 'cls' is supported")
    return modes[0]


class _PoolingFile(Section):
    """`1_Pooling/config.json`. Older files have a flag for each mode."""

    pooling_mode: Annotated[str | list[str], AfterValidator(_one_mode)] | None = None
    include_prompt: Literal[True] = True
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


class _LengthFile(Section):
    max_seq_length: _Length | None = None
    do_lower_case: bool = False


class _SettingsFile(Section):
    """`config_sentence_transformers.json`."""

    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: _Length | None = None
    activation_fn: Any = None


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
    modules = validated(_Modules, {"modules": read_value(where, _MOST_BYTES)}, f"{where}: ").modules
    kinds = [module.kind for module in modules]
    if kinds not in (list(_ORDER), list(_ORDER[:2])):
        raise CheckpointError(f"{where} names the modules {shown(kinds)}: supported are Transformer, Pooling and, behind these, Normalize")
    if modules[0].place not in (None, "", "."):
        raise CheckpointError(f"{where}: the encoder lies in {shown(modules[0].path)}, not beside it: move its files here")
    require_plain_name(modules[1].place, where)
    path = folder / modules[1].place / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, and {where} names it: restore it, or give pooling='mean' or pooling='cls'")
    values = validated(_PoolingFile, read_object(path, _MOST_BYTES), f"{path}: ")
    mode = values.pooling_mode
    if mode is None:
        modes = [name for flag, name in _FLAGS.items() if getattr(values, flag)] or ["mean"]
        if modes not in (["mean"], ["cls"]):
            raise CheckpointError(f"{path}: pooling {' and '.join(map(shown, modes))} is not supported, only 'mean' or 'cls'")
        mode = modes[0]
    return PoolingArchitecture(str(mode), normalize=len(kinds) == 3)


def read_max_length(folder: pathlib.Path) -> int | None:
    """Tokens that are read of a text; None where the folder does not say. Raises `CheckpointError` for a file that cannot be meant."""
    names = [LENGTH_FILE, *(f"sentence_{backbone}_config.json" for backbone in _BACKBONES)]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return _tokenizer_length(folder)
    values = validated(_LengthFile, read_object(path, _MOST_BYTES), f"{path}: ")
    if values.do_lower_case and not _lowercases(folder):
        raise CheckpointError(f"{path}: do_lower_case=true is not supported: have the tokenizer lowercase")
    return values.max_seq_length or _tokenizer_length(folder)


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
    last = modules[-1] if isinstance(modules, list) and modules else None
    return isinstance(last, dict) and str(last.get("type")).endswith(f".{_ORDER[-1]}")


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
    said = validated(_SettingsFile, values, f"{path}: ")
    activation = said.activation_fn or _activation(config)
    activation = activation if isinstance(activation, str) else None
    default = said.default_prompt_name
    settings = Settings(said.prompts, default, said.similarity_fn_name, said.truncate_dim, activation).for_head(head)
    if default is not None and default not in settings.prompts:
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
