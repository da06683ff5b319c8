"""GLUE: linguistic acceptability (CoLA).

    transkimmer train --config configs/glue_cola.py

Gave Matthews correlations of 30.2 dense and 14.3 skimming, at 3.6 times fewer FLOPs than unpadded dense, on the validation split and 2
shared CPU cores, seed 0 (results/rows/cola_minilm-6l_0.28_0.json). The score of so few texts depends on the seed by several points.

Half of the dense model's FLOPs instead of 28 %, or the first four layers alone, which then read more of the tokens:

    transkimmer train --config configs/glue_cola.py --config.skim.target=0.5
    transkimmer train --config configs/glue_cola.py --config.skimming.model.num_hidden_layers=4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/cola"), base.SMALL)
