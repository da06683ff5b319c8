"""GLUE: Winograd sentences (WNLI); the majority class is all there is to learn.

    transkimmer train --config configs/glue_wnli.py

Gave accuracies of 32.4 % dense and 23.9 % skimming, where always naming the larger class gives 56.3 %, on the validation split and 2 shared
CPU cores, seed 0 (results/rows/wnli_minilm-6l_0.28_0.json).

Half of the dense model's FLOPs instead of 28 %, or the first four layers alone, which then read more of the tokens:

    transkimmer train --config configs/glue_wnli.py --config.skim.target=0.5
    transkimmer train --config configs/glue_wnli.py --config.skimming.model.num_hidden_layers=4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/wnli"), base.SMALL)
