"""GLUE: duplicate questions (QQP).

    python train.py --config configs/glue_qqp.py

Another encoder, another budget:

    python train.py --config configs/glue_qqp.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("qqp", learning_rate=2e-5, batch_size=32, epochs=3.0)
