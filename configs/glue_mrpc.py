"""GLUE: paraphrase (MRPC).

    transkimmer train --config configs/glue_mrpc.py

Gave F1 of 85.2 dense and 82.9 skimming, at 3.5 times fewer FLOPs than unpadded dense, on the test split, on which nothing is chosen, and 2
shared CPU cores, seed 0 (results/rows/mrpc_minilm-6l_0.28_0.json).

Half of the dense model's FLOPs instead of 28 %, or the first four layers alone, which then read more of the tokens:

    transkimmer train --config configs/glue_mrpc.py --config.skim.target=0.5
    transkimmer train --config configs/glue_mrpc.py --config.skimming.model.num_hidden_layers=4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/mrpc"), base.SMALL)
