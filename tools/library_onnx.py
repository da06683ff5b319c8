"""Sentence-transformers' ONNX backend as a contender of embedders.py, in a process of its own, since it needs another transformers.

    python -m venv onnx
    onnx/bin/pip install 'optimum[onnxruntime]==2.1.*' 'optimum-onnx==0.1.*' 'transformers==4.57.*' sentence-transformers torch
    python -m tools.embedders ... --onnx-python onnx/bin/python

It reads texts as one line of JSON from standard input, says so by a line, and encodes all of them for every further line. It imports
nothing of this package. int8 is the library's own dynamic quantisation, for the instructions that the processor has.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

INT8 = "int8"


def loaded(folder: str, pooling: str, max_length: int, precision: str) -> Callable[[Sequence[str], int], object]:
    """A function that encodes texts, so many a batch."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model, models

    def model(place: str, file: str | None) -> SentenceTransformer:
        arguments = {"provider": "CPUExecutionProvider"} | ({} if file is None else {"file_name": file, "subfolder": "onnx"})
        encoder = models.Transformer(place, max_seq_length=max_length, backend="onnx", model_kwargs=arguments)
        pooled = models.Pooling(encoder.get_embedding_dimension(), pooling_mode=pooling)
        return SentenceTransformer(modules=[encoder, pooled], device="cpu")

    with tempfile.TemporaryDirectory() as copy:
        made = model(readable(folder, copy), None)
    if precision == INT8:
        instructions = "avx512_vnni" if "avx512_vnni" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8") else "avx2"
        with tempfile.TemporaryDirectory() as copy:
            made.save_pretrained(copy)
            export_dynamic_quantized_onnx_model(made, instructions, copy)
            (file,) = pathlib.Path(copy, "onnx").glob("*_q*int8*.onnx")
            made = model(copy, file.name)
    return lambda texts, batch_size: made.encode(texts, batch_size=batch_size, show_progress_bar=False)


def readable(folder: str, copy: str) -> str:
    """A copy of a model folder whose tokenizer is of a class that transformers 4 has too."""
    for file in pathlib.Path(folder).resolve().iterdir():
        pathlib.Path(copy, file.name).symlink_to(file)
    config = pathlib.Path(copy, "tokenizer_config.json")
    content = config.read_text(encoding="utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast")
    config.unlink()
    config.write_text(content, encoding="utf-8")
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of the teacher")
    parser.add_argument("--pooling", choices=("mean", "cls"), required=True)
    parser.add_argument("--max-length", type=int, required=True, help="tokens read of a text")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", INT8), required=True)
    args = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    texts = json.loads(sys.stdin.readline())
    encode = loaded(args.folder, args.pooling, args.max_length, args.precision)
    print("loaded", file=answers, flush=True)
    for _ in sys.stdin:
        encode(texts, args.batch_size)
        print("encoded", file=answers, flush=True)


if __name__ == "__main__":
    main()
