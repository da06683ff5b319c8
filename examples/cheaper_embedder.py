"""Make an embedder cheaper, without labels: python examples/cheaper_embedder.py EMBEDDER texts.txt --output runs/cheaper

EMBEDDER is a folder of sentence-transformers, or a bare encoder with --pooling mean. The student learns its vectors from the texts, of
which a tenth is held out. Prints how near the student's vectors are to its teacher's on texts that it has not seen, and what they cost.
"""

import argparse
import time

from transkimmer_jax import SkimEngine
from transkimmer_jax.compilation import use_compilation_cache
from transkimmer_jax.config import override
from transkimmer_jax.training.distillation import distil_config
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.student_shape import with_student_shape


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil a skimming embedder from one that works.")
    parser.add_argument("embedder", help="folder or hub id")
    parser.add_argument("texts", help="a text a line")
    parser.add_argument("--output", required=True, help="the run; the student is in its folder model/")
    parser.add_argument("--target", type=float, default=0.4, help="share of the dense model's FLOPs to spend")
    parser.add_argument("--pooling", choices=("mean", "cls"), help="of a bare encoder")
    parser.add_argument("--steps", default="None", help="of training, instead of three passes over the texts")
    args = parser.parse_args()

    use_compilation_cache()
    config = distil_config(args.embedder, [args.texts], targets=[args.target], pooling=args.pooling)
    config = override(config, {"train.steps": args.steps})
    config = with_student_shape(config, args.output)  # fewer layers and neurons, so that more tokens stay
    result = train_and_evaluate(config, args.output)
    unseen = result["metrics"]["test"]
    print(f"of {result['examples']['test']} unseen texts: cosine with the teacher's vectors {unseen['cosine']:.3f}, of the nearest")
    print(f"ten texts {unseen['neighbours']:.0%} are the teacher's, at {result['flops_vs_unpadded']:.2f} times fewer FLOPs")

    with open(args.texts, encoding="utf-8") as file:
        texts = [line.strip() for line, _ in zip(file, range(500), strict=False)]
    teacher = SkimEngine.from_pretrained(args.embedder, dense=True, pooling=args.pooling)
    student = SkimEngine.from_pretrained(f"{args.output}/model")
    for name, engine in (("teacher", teacher), ("student", student)):
        engine.encode(texts[:32], show_progress_bar=False)  # what is built once
        start = time.perf_counter()
        vectors = engine.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        print(f"{name}: {len(vectors) / (time.perf_counter() - start):,.0f} texts a second")


if __name__ == "__main__":
    main()
