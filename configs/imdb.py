"""IMDB: sentiment of whole reviews, up to 512 tokens.

    python train.py --config configs/imdb.py

On a machine with little time, a part of the training set and shorter texts:

    python train.py --config configs/imdb.py --config.data.train_examples=5000 --config.data.max_length=256
"""

import dataclasses

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    config = base.glue("sst2", learning_rate=2e-5, batch_size=32, epochs=3.0)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, task="imdb_reviews"))
