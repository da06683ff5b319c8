"""GLUE: textual entailment (RTE).

    transkimmer train --config configs/glue_rte.py

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, of the first four of MiniLM's six layers. Other budgets, or all layers:

    transkimmer train --config configs/glue_rte.py --config.skim.target=0.4 --config.skim.levels=0.6
    transkimmer train --config configs/glue_rte.py --config.skimming.model.num_hidden_layers=none
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.recipe(DataConfig(task="glue/rte"), base.SMALL, base.FIRST_LAYERS)
