"""GLUE: question answering as entailment (QNLI).

    transkimmer train --config configs/glue_qnli.py

Gave accuracies of 81.8 % dense and 76.0 % skimming, at 3.6 times fewer FLOPs than unpadded dense, of the 10 % of the training set that
were at hand, on the validation split and 2 shared CPU cores, seed 0 (results/rows/qnli_minilm-6l_0.28_0.json).

Half of the dense model's FLOPs instead of 28 %, or the first four layers alone, which then read more of the tokens:

    transkimmer train --config configs/glue_qnli.py --config.skim.target=0.5
    transkimmer train --config configs/glue_qnli.py --config.skimming.model.num_hidden_layers=4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/qnli"), base.MIDDLE)
