"""GLUE: linguistic acceptability (CoLA).

    python train.py --config configs/glue_cola.py

Another encoder, another budget:

    python train.py --config configs/glue_cola.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("cola", learning_rate=2e-5, batch_size=32, epochs=5.0)
