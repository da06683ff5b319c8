"""GLUE: textual entailment (RTE).

    python train.py --config configs/glue_rte.py

Another encoder, another budget:

    python train.py --config configs/glue_rte.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("rte", learning_rate=2e-5, batch_size=16, epochs=8.0)
