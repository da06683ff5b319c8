"""IMDB: sentiment of whole reviews, up to 512 tokens.

    python train.py --config configs/imdb.py

On a machine with little time, a part of the training set and shorter texts:

    python train.py --config configs/imdb.py --config.data.train_examples=5000 --config.data.max_length=256

A row of docs/results.md, dense and skimming, scored on 2,500 test texts and timed: the 6-layer MiniLM, of 3,000 training texts cut at 256
tokens, gave 86.2 % dense and 86.2 % at 3.55 times fewer FLOPs; skimming trained for 24 minutes on 2 shared CPU cores, seed 0
(results/rows/imdb_reviews_minilm-6l_0.28_0.json):

    python benchmarks/row.py imdb_reviews

The 12-layer E5 gave 89.3 % dense and 82.4 % at 3.54 times fewer FLOPs, of the same texts; skimming trained for 46 minutes on 2 shared CPU
cores, seed 0 (results/rows/imdb_reviews_e5-small-12l_0.28_0.json):

    python benchmarks/row.py imdb_reviews --backbone e5-small-12l
"""

import dataclasses

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    config = base.glue("sst2", learning_rate=2e-5, batch_size=32, epochs=3.0)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, task="imdb_reviews"))
