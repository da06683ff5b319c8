"""Answer texts by an ONNX graph, without the package that made it: python examples/answer_by_graph.py exported < texts.txt

`exported` is what `transkimmer export --format onnx` has written, of a classifier of single texts or an embedder. Reads a text a line and
prints a line of JSON for each: its label and probabilities, or its vector, and the share of its tokens that the layers computed. Needs
onnxruntime, numpy and transformers.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import onnxruntime
from transformers import AutoTokenizer


class Graph:
    """The network, its tokenizer and the names of its labels."""

    def __init__(self, folder, file):
        folder = pathlib.Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if len(config.get("task", {}).get("text_columns") or ()) == 2:
            raise SystemExit(f"error: the model of {folder} reads pairs of texts, and this script reads one text a line")
        self.labels = [config["id2label"][str(number)] for number in range(len(config.get("id2label", {})))]
        self.multi_label = config.get("problem_type") == "multi_label_classification"
        settings = folder / "config_sentence_transformers.json"
        prompted = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        self.prompt = prompted.get("prompts", {}).get(prompted.get("default_prompt_name"), "")
        self.columns = prompted.get("truncate_dim")  # of a vector; None: all
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        limit = min(self.tokenizer.model_max_length, config["max_position_embeddings"])
        self.max_length = config.get("task", {}).get("max_length") or limit
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # the threshold is an input, which is meant so, and warned of
        self.session = onnxruntime.InferenceSession(folder / "onnx" / file, options)
        self.inputs = {value.name for value in self.session.get_inputs()}
        outputs = self.session.get_outputs()
        self.outputs = [value.name for value in outputs]
        if "sentence_embedding" not in self.outputs and [len(value.shape) for value in outputs if value.name == "logits"] != [2]:
            raise SystemExit(f"error: the model of {folder} is no classifier of texts and no embedder")

    def __call__(self, texts):
        """A dictionary for each text. Inputs are padded. In the graph attention alone pays for that: it sees all as wide as the longest."""
        encoded = self.tokenizer(
            [self.prompt + text for text in texts], padding=True, truncation=True, max_length=self.max_length, return_tensors="np"
        )
        feeds = {name: np.asarray(values, np.int64) for name, values in encoded.items() if name in self.inputs}
        results = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        shares = results["kept"].mean(axis=0) / encoded["attention_mask"].sum(axis=1)
        for row, share in enumerate(shares.tolist()):
            yield self.answer({name: values[row] for name, values in results.items() if name != "kept"}) | {"kept": round(share, 4)}

    def answer(self, outputs):
        """Of one text."""
        if "sentence_embedding" in outputs:
            return {"vector": outputs["sentence_embedding"][: self.columns].astype(float).round(5).tolist()}
        logits = outputs["logits"].astype(float)
        if self.multi_label:  # each label by itself
            label, probabilities = [self.labels[number] for number in np.flatnonzero(logits >= 0)], 1 / (1 + np.exp(-logits))
        elif len(logits) == 1:
            return {"value": float(logits[0])}
        else:
            label, probabilities = self.labels[int(logits.argmax())], np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
        return {"label": label, "probabilities": dict(zip(self.labels, probabilities.round(4).tolist(), strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer texts by an ONNX graph.")
    parser.add_argument("folder")
    parser.add_argument("--file", default="model.onnx", help="model_quantized.onnx is the one in int8 (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    graph = Graph(args.folder, args.file)
    lines = [line.rstrip("\n") for line in sys.stdin]
    for start in range(0, len(lines), args.batch_size):
        for answer in graph(lines[start : start + args.batch_size]):
            print(json.dumps(answer))


if __name__ == "__main__":
    main()
