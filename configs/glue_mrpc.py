"""GLUE: paraphrase (MRPC).

    python train.py --config configs/glue_mrpc.py

Another encoder, another budget:

    python train.py --config configs/glue_mrpc.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3

A row of docs/results.md, dense and skimming, scored on the test split and timed. The dense model gave an F1 of 85.2, the skimming
one 82.9 at 3.5 times fewer FLOPs, on 2 shared CPU cores, seed 0 (results/rows/mrpc_minilm-6l_0.28_0.json):

    python benchmarks/row.py glue/mrpc

The first four of the six layers gave 82.8 at 3.6 times fewer, seed 0 (results/rows/mrpc_minilm-6l_0.28_0_4layers.json), and with seeds 0 to
2 on average 2.6 points less than their dense models:

    python benchmarks/row.py glue/mrpc --layers 4 [--seed 1]
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("mrpc", learning_rate=2e-5, batch_size=16, epochs=5.0)
