"""GLUE: textual entailment (RTE).

    python train.py --config configs/glue_rte.py

Another encoder, another budget:

    python train.py --config configs/glue_rte.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3

Rows of docs/results.md, dense and skimming, scored and timed, with the 6-layer MiniLM on 2 shared CPU cores, seed 0: 59.2 % dense, 57.0 %
at 3.6 times fewer FLOPs, with all six layers (results/rows/rte_minilm-6l_0.28_0.json) and with the first four of them; with four layers
three seeds lose 1.1 points on average:

    python benchmarks/row.py glue/rte [--layers 4] [--seed 1]
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("rte", learning_rate=2e-5, batch_size=16, epochs=8.0)
