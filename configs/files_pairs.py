"""A cross-encoder of your own: JSONL or CSV with a `query`, a `document` and a `label` for how well they go together.

    transkimmer train --config configs/files_pairs.py --config.data.train_file=train.jsonl --config.data.validation_file=dev.jsonl

Float labels make a regression, whose value ranks documents; two classes do as well (`SkimEngine.rank(..., label=...)`). Queries are never
skimmed.

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, with a third of the neurons of its feed-forward blocks.
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    data = DataConfig(task="files", text_columns=("query", "document"), length_buckets=(16, 32, 64, 128, 256, 384, 512))
    return base.recipe(data, base.SMALL, base.NARROW, always_keep="first_segment")
