"""Your own words with a tag each: JSONL with a list `tokens` and a list `tags`.

    transkimmer train --config configs/files_tags.py --config.data.train_file=train.jsonl --config.data.validation_file=dev.jsonl

Tags that begin with B- and I- are of entities, which seqeval scores; other tags are scored by accuracy.

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, with all layers and neurons.
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    data = DataConfig(task="tags", text_columns=("tokens",), label_column="tags", length_buckets=(16, 32, 64, 128, 256, 512))
    return base.recipe(data, base.SMALL, base.WHOLE)
