"""20 Newsgroups: which of twenty groups a post is from, by its text alone, cut at 256 tokens.

    transkimmer train --config configs/newsgroups.py

scikit-learn fetches the posts. Never run: the data was not at hand.

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, of the first four of MiniLM's six layers, with one predictor, before the
first.
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="20newsgroups", max_length=256), base.MIDDLE, base.LONG_TEXTS)
