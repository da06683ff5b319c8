"""Folders of sentence-transformers, read and written: how vectors are pooled, how much is read of a text, and prompts.

modules.json                         what the model consists of
1_Pooling/config.json                how vectors are pooled
sentence_bert_config.json            max_seq_length; newer folders leave it to tokenizer_config.json
config_sentence_transformers.json    prompts, and how vectors are compared
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture
from transkimmer_jax.weights.json_files import read_object, read_value, require_plain_name
from transkimmer_jax.weights.schema import Choice, Field, Integer, Section, listed, problems, shown

MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
TOKENIZER_FILE = "tokenizer_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
POOLING_FOLDER, NORMALIZE_FOLDER = "1_Pooling", "2_Normalize"
_MOST_BYTES = 2**20
_ACTIVATION = "sbert_ce_default_activation_function"  # of older cross-encoders
_ORDER = ("Transformer", "Pooling", "Normalize")
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
_LENGTH = Section({"max_seq_length": Field(Integer(1, _LONGEST)), "do_lower_case": Field(_BOOLEAN)})


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Texts that stand before inputs of a kind. default: the name of that of inputs of no named kind; None: they have none. similarity: of
    vectors, as sentence-transformers names it, which the same file says."""

    by_name: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default: str | None = None
    similarity: str = "cosine"


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
    if modules[0].get("path"):
        raise CheckpointError(f"{where}: the encoder lies in {shown(modules[0]['path'])}, not beside it: move its files here")
    require_plain_name(modules[1].get("path"), where)
    path = folder / modules[1]["path"] / "config.json"
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
    if values.get("do_lower_case"):
        wrong.append("do_lower_case=true is not supported: have the tokenizer lowercase")
    if wrong:
        raise CheckpointError(f"{path}: {listed(wrong)}")
    return values.get("max_seq_length") or _tokenizer_length(folder)


def _tokenizer_length(folder: pathlib.Path) -> int | None:
    """What a tokenizer says, if it has a limit."""
    path = folder / TOKENIZER_FILE
    length = read_object(path, _MOST_BYTES).get("model_max_length") if path.is_file() else None
    return length if isinstance(length, int) and 0 < length <= _LONGEST else None


def read_normalize(folder: pathlib.Path) -> bool:
    """Whether the modules of a folder end in one that gives vectors the length 1."""
    path = folder / MODULES_FILE
    modules = read_value(path, _MOST_BYTES) if path.is_file() else None
    return isinstance(modules, list) and _kinds(modules)[-1:] == [_ORDER[-1]]


def gives_raw_scores(values: Mapping[str, Any]) -> bool:
    """Whether a cross-encoder's `config.json` asks for its logits as scores, where others give their sigmoids."""
    newer = values.get("sentence_transformers")
    name = newer.get("activation_fn") if isinstance(newer, dict) else values.get(_ACTIVATION)
    return isinstance(name, str) and name.rpartition(".")[2] == "Identity"


def cross_encoder_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a `config.json` says to sentence-transformers' cross-encoders."""
    return {name: values[name] for name in ("sentence_transformers", _ACTIVATION) if name in values}


def read_prompts(folder: pathlib.Path) -> Prompts:
    """The prompts of a folder; none where it has none. Raises `CheckpointError` for a file that cannot be meant."""
    path = folder / PROMPTS_FILE
    if not path.is_file():
        return Prompts()
    values = read_object(path, _MOST_BYTES)
    by_name, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(by_name, dict) or not all(isinstance(prompt, str) for prompt in by_name.values()):
        raise CheckpointError(f"{path}: prompts must be texts by name, not {shown(by_name)}")
    if default is not None and default not in by_name:
        raise CheckpointError(f"{path}: default_prompt_name={shown(default)} is none of the prompts {shown(sorted(by_name))}")
    similarity = values.get("similarity_fn_name") or Prompts.similarity
    if not isinstance(similarity, str):
        raise CheckpointError(f"{path}: similarity_fn_name must be a name, not {shown(similarity)}")
    return Prompts(by_name, default, similarity)


def files_of(arch: Architecture, max_length: int, prompts: Prompts) -> dict[str, str]:
    """What makes a saved embedder a folder of sentence-transformers: texts by the names of files.

    How to pool is said in both spellings. A folder for `2_Normalize` is not needed: there is nothing in it.
    """
    kinds = _ORDER if arch.pooling.normalize else _ORDER[:2]
    paths = ("", POOLING_FOLDER, NORMALIZE_FOLDER)
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    pooling = {
        "word_embedding_dimension": arch.hidden_size,
        "pooling_mode": arch.pooling.mode,
        **{flag: mode == arch.pooling.mode for flag, mode in _FLAGS.items()},
        "include_prompt": True,
    }
    contents = {
        MODULES_FILE: modules,
        f"{POOLING_FOLDER}/config.json": pooling,
        LENGTH_FILE: {"max_seq_length": max_length, "do_lower_case": False},
        PROMPTS_FILE: {
            "prompts": dict(prompts.by_name),
            "default_prompt_name": prompts.default,
            "similarity_fn_name": prompts.similarity,
        },
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}
