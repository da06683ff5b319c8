"""GLUE: duplicate questions (QQP).

    transkimmer train --config configs/glue_qqp.py

Never run: the data was not at hand.

Half of the dense model's FLOPs instead of 28 %, or the first four layers alone, which then read more of the tokens:

    transkimmer train --config configs/glue_qqp.py --config.skim.target=0.5
    transkimmer train --config configs/glue_qqp.py --config.skimming.model.num_hidden_layers=4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/qqp"), base.LARGE)
