"""IMDB: sentiment of reviews, of which 3,000 are trained on and cut at 256 tokens.

    transkimmer train --config configs/imdb.py

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, of the first four of MiniLM's six layers, with one predictor, before the
first. All texts, up to 512 tokens:

    transkimmer train --config configs/imdb.py --config.data.max_length=512 --config.data.train_examples=none \\
        --config.data.eval_examples=none
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    data = DataConfig(task="imdb_reviews", max_length=256, train_examples=3000, eval_examples=1000)
    return base.recipe(data, base.MIDDLE, base.LONG_TEXTS)
