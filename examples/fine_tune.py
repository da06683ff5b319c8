"""Fine-tune a skimming classifier on your own file: python examples/fine_tune.py reviews.jsonl --workdir runs/reviews

The file is JSONL or CSV with a `text` and a `label` column. A tenth of it is held out. Prints the dense model beside the skimming one,
then labels the first texts of the file.
"""

import argparse
import pathlib

from transkimmer_jax import SkimEngine
from transkimmer_jax.compilation import use_compilation_cache
from transkimmer_jax.config import load_config
from transkimmer_jax.data.records import read_records
from transkimmer_jax.training.recipe import comparison, train_recipe

CONFIG = pathlib.Path(__file__).resolve().parent.parent / "configs" / "files.py"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune a skimming classifier on a file.")
    parser.add_argument("file", help="JSONL or CSV with the columns text and label")
    parser.add_argument("--workdir", required=True, help="where the run is kept; the same folder resumes")
    parser.add_argument("--target", default="0.28", help="share of the dense model's FLOPs to spend")
    parser.add_argument("--pretrained", default="packaged:minilm-6l", help="folder or hub id of the encoder to start from")
    parser.add_argument("--max-length", default="128", help="tokens read of a text")
    parser.add_argument("--steps", default="None", help="of each of both runs, instead of passes over the file")
    args = parser.parse_args()

    use_compilation_cache()
    recipe = load_config(
        str(CONFIG),
        {
            "data.train_file": args.file,
            "data.max_length": args.max_length,
            "skim.target": args.target,
            "model.pretrained": args.pretrained,
            "train.steps": args.steps,
        },
    )
    print(comparison(train_recipe(recipe, args.workdir), args.workdir))

    texts = [record["text"] for _, record in read_records(args.file)][:3]
    for text, answer in zip(texts, SkimEngine.from_pretrained(f"{args.workdir}/model").predict(texts, progress=False), strict=True):
        print(f"{answer.label}, {answer.kept:.0%} of its tokens computed: {text}")


if __name__ == "__main__":
    main()
