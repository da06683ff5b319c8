"""20 Newsgroups: which of twenty groups a post is from, by its text alone, cut at 256 tokens.

    transkimmer train --config configs/newsgroups.py

scikit-learn fetches the posts. Not run by its makers: the data was not to be had where they work.
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="20newsgroups", max_length=256), base.MIDDLE, base.NARROW_FIRST_LAYERS)
