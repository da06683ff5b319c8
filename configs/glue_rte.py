"""GLUE: textual entailment (RTE).

    transkimmer train --config configs/glue_rte.py

Gave accuracies of 59.2 % dense and 57.0 % skimming, at 3.6 times fewer FLOPs than unpadded dense, on the validation split and 2 shared CPU
cores, seed 0 (results/rows/rte_minilm-6l_0.28_0.json).

Half of the dense model's FLOPs instead of 28 %, or the first four layers alone, which then read more of the tokens:

    transkimmer train --config configs/glue_rte.py --config.skim.target=0.5
    transkimmer train --config configs/glue_rte.py --config.skimming.model.num_hidden_layers=4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/rte"), base.SMALL)
