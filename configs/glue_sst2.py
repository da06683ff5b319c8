"""GLUE: sentiment (SST-2).

    transkimmer train --config configs/glue_sst2.py

One checkpoint for 33 and 28.5 % of the dense model's FLOPs, of the first four of MiniLM's six layers, with a third of the neurons of their
feed-forward blocks and one predictor, before the first. Other budgets, or all neurons:

    transkimmer train --config configs/glue_sst2.py --config.skim.target=0.25 --config.skim.levels=0.33
    transkimmer train --config configs/glue_sst2.py --config.skimming.model.intermediate_size=none --config.skim.levels=0.5,0.4
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/sst2"), base.LARGE, base.ONE_PREDICTOR)
