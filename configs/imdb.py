"""IMDB: sentiment of reviews, of which 3,000 are trained on and cut at 256 tokens.

    transkimmer train --config configs/imdb.py

Gave accuracies of 86.2 % dense and 86.2 % skimming, at 3.55 times fewer FLOPs than unpadded dense, on 2,500 texts of the test split, on
which nothing is chosen, and 2 shared CPU cores, of which skimming took 24 minutes, seed 0
(results/rows/imdb_reviews_minilm-6l_0.28_0.json).

All texts, up to 512 tokens:

    transkimmer train --config configs/imdb.py --config.data.max_length=512 --config.data.train_examples=none \\
        --config.data.eval_examples=none
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    data = DataConfig(task="imdb_reviews", max_length=256, train_examples=3000, eval_examples=1000)
    return base.recipe(data, base.MIDDLE)
