"""GLUE: sentiment (SST-2).

    transkimmer train --config configs/glue_sst2.py

Gave accuracies of 90.0 % dense and 83.9 % skimming, at 3.6 times fewer FLOPs than unpadded dense, on the validation split and 2 CPU cores,
of which skimming took 13 minutes, seed 0 (results/rows/sst2_minilm-6l_0.28_0.json).

Half of the dense model's FLOPs instead of 28 %, or the first four layers alone, which then read more of the tokens:

    transkimmer train --config configs/glue_sst2.py --config.skim.target=0.5
    transkimmer train --config configs/glue_sst2.py --config.skimming.model.num_hidden_layers=4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/sst2"), base.LARGE)
