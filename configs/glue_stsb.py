"""GLUE: sentence similarity (STS-B, regression).

    transkimmer train --config configs/glue_stsb.py

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, with a third of the neurons of its feed-forward blocks. Other budgets, or
all neurons:

    transkimmer train --config configs/glue_stsb.py --config.skim.target=0.4 --config.skim.levels=0.5
    transkimmer train --config configs/glue_stsb.py --config.skimming.model.intermediate_size=none
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/stsb"), base.SMALL, base.NARROW)
