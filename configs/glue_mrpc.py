"""GLUE: paraphrase (MRPC).

    python train.py --config configs/glue_mrpc.py

Another encoder, another budget:

    python train.py --config configs/glue_mrpc.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("mrpc", learning_rate=2e-5, batch_size=16, epochs=5.0)
