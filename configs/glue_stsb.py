"""GLUE: sentence similarity (STS-B, regression).

    python train.py --config configs/glue_stsb.py

Another encoder, another budget:

    python train.py --config configs/glue_stsb.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3

A row of docs/results.md, dense and skimming, scored on the test split and timed. Pearson's correlation of the dense model was 84.3, of
the skimming one 74.4 at 3.3 times fewer FLOPs, on 2 shared CPU cores, seed 0 (results/rows/stsb_minilm-6l_0.28_0.json):

    python benchmarks/row.py glue/stsb

The first four of the six layers gave 78.2 at 3.4 times fewer, from a dense model of 84.0, seed 0
(results/rows/stsb_minilm-6l_0.28_0_4layers.json), and with seeds 0 to 2 on average 5.9 points less than their dense models:

    python benchmarks/row.py glue/stsb --layers 4 [--seed 1]
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("stsb", learning_rate=2e-5, batch_size=16, epochs=5.0)
