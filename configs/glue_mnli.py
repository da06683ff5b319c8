"""GLUE: natural-language inference (MNLI); matched and mismatched are both reported.

    python train.py --config configs/glue_mnli.py

Another encoder, another budget:

    python train.py --config configs/glue_mnli.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("mnli", learning_rate=2e-5, batch_size=32, epochs=3.0)
