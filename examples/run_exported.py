"""Run an exported model without the package that made it: python examples/run_exported.py FOLDER TEXT [TEXT ...]

Prints one JSON object a text: its label, logits and the share of its tokens that the layers computed. A model of pairs takes the
texts two by two. Where the export does not say whether it is one, --pairs or --no-pairs does.
"""

import argparse
import json
import pathlib

import jax
import jax.export
import numpy as np
from safetensors.numpy import load_file  # bfloat16 is known to NumPy once jax is imported
from transformers import AutoTokenizer


class ExportedModel:
    """The programs, weights and tokenizer of a folder that `transkimmer export` has written."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        # Handed to every program, so they are in the device's memory once.
        self.weights = jax.device_put(load_file(self._beside(self.manifest["weights"])))
        self.ladders = {}  # by width, narrowest first: the programs of a bucket, cheapest first
        for artifact in sorted(self.manifest["artifacts"], key=lambda artifact: (artifact["width"], artifact["rung"])):
            self.ladders.setdefault(artifact["width"], []).append(artifact)
        self.programs = {}

    def __call__(self, texts, threshold=None):
        """Answers in the order of `texts`: strings, or pairs of strings. `threshold`: None takes the export's default."""
        threshold = np.float32(self.manifest["threshold"] if threshold is None else threshold)
        if prompt := self.manifest.get("prompt"):
            texts = [prompt + text if isinstance(text, str) else (prompt + text[0], text[1]) for text in texts]
        encoded = self.tokenizer(texts, truncation="longest_first", max_length=self.manifest["max_length"], return_token_type_ids=True)
        answers = [None] * len(texts)
        for rows, ladder in self._batches([len(ids) for ids in encoded["input_ids"]]):
            logits, kept = self._run(ladder, *([encoded[name][row] for row in rows] for name in ("input_ids", "token_type_ids")), threshold)
            for slot, row in enumerate(rows):
                share = kept[:, slot].mean() / len(encoded["input_ids"][row])
                answers[row] = {"label": self._label(logits[slot]), "logits": logits[slot].tolist(), "kept": float(share)}
        return answers

    def _batches(self, lengths):
        """Texts of about the same length together, with the ladder of the narrowest bucket that holds them."""
        batch, tokens = [], 0
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            bucket = self._ladder(lengths[row])[0]
            if batch and (len(batch) >= bucket["sequences"] or tokens + lengths[row] > bucket["tokens"]):
                yield batch, self._ladder(lengths[batch[-1]])
                batch, tokens = [], 0
            batch.append(row)
            tokens += lengths[row]
        if batch:
            yield batch, self._ladder(lengths[batch[-1]])

    def _ladder(self, length):
        for width, ladder in self.ladders.items():
            if length <= width:
                return ladder
        raise SystemExit(f"error: a text has {length} tokens, and {self.folder} holds programs for at most {width}: export more --lengths")

    def _run(self, ladder, input_ids, token_type_ids, threshold):
        """Pack the texts one after the other, and climb until no layer keeps more than its program has room for."""
        packed = np.zeros((2, 1, ladder[0]["tokens"]), np.int32)
        lengths = np.zeros((1, ladder[0]["sequences"]), np.int32)  # 0 where there is no text
        lengths[0, : len(input_ids)] = [len(ids) for ids in input_ids]
        packed[:, 0, : lengths.sum()] = np.concatenate(input_ids), np.concatenate(token_type_ids)
        for artifact in ladder:
            answers = self._program(artifact["file"])(self.weights, packed[0], packed[1], lengths, threshold)
            if "logits" not in answers or answers["logits"].shape[1] != ladder[0]["sequences"]:
                raise SystemExit(f"error: the model of {self.folder} is no classifier of texts")
            if not answers["overflow"][0]:  # never on the last rung
                return np.asarray(answers["logits"][0]), np.asarray(answers["kept"][0])
        raise RuntimeError(f"{artifact['file']} overflowed, but it is the last of its bucket")

    def _beside(self, name):
        """The file of that name in the folder: a manifest of somebody else's may name a path that leads elsewhere."""
        if not isinstance(name, str) or name in ("", ".", "..") or any(character in name for character in "/\\:"):
            raise SystemExit(f"error: {self.folder / 'manifest.json'} names {name!r}, which is not a file beside it")
        return self.folder / name

    def _program(self, file):
        if file not in self.programs:
            self.programs[file] = jax.jit(jax.export.deserialize(self._beside(file).read_bytes()).call)
        return self.programs[file]

    def _label(self, logits):
        names = self.manifest["label_names"]
        if self.manifest.get("multi_label"):  # a text has each label whose probability, the logit's sigmoid, is at least 0.5
            return [name for name, logit in zip(names, logits, strict=True) if logit >= 0]
        return names[int(logits.argmax())] if names else float(logits[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run an exported model on texts.")
    parser.add_argument("folder")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--threshold", type=float, help="as of `transkimmer predict` (default: the export's)")
    parser.add_argument(
        "--pairs", action=argparse.BooleanOptionalAction, help="whether the model reads pairs of texts (default: what the export says)"
    )
    args = parser.parse_args()
    if args.threshold is not None and not np.isfinite(args.threshold):
        parser.error(f"--threshold must be a finite number, not {args.threshold}")
    model = ExportedModel(args.folder)
    texts = args.texts
    said = model.manifest["pairs"]
    pairs = said if args.pairs is None else args.pairs
    if pairs is None:
        parser.error("the export does not say whether the model reads pairs of texts: give --pairs or --no-pairs")
    if said is not None and pairs != said:
        parser.error(
            f"the export says that the model reads {'pairs' if said else 'single texts'}: leave --{'no-' if said else ''}pairs out"
        )
    if pairs:
        if len(texts) % 2:
            parser.error("this model reads pairs: give an even number of texts")
        texts = list(zip(texts[::2], texts[1::2], strict=True))
    for answer in model(texts, args.threshold):
        print(json.dumps(answer))
