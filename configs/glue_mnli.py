"""GLUE: natural-language inference (MNLI); matched and mismatched are both reported.

    transkimmer train --config configs/glue_mnli.py

Never run: the data was not at hand.

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, of the first four of MiniLM's six layers. Other budgets, or all layers:

    transkimmer train --config configs/glue_mnli.py --config.skim.target=0.4 --config.skim.levels=0.6
    transkimmer train --config configs/glue_mnli.py --config.skimming.model.num_hidden_layers=none
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/mnli"), base.LARGE, base.FIRST_LAYERS)
