"""GLUE: Winograd sentences (WNLI); the majority class is all there is to learn.

    python train.py --config configs/glue_wnli.py

Another encoder, another budget:

    python train.py --config configs/glue_wnli.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3

A row of docs/results.md: 32.4 dense and 23.9 skimming, where always naming the larger class gives 56.3, on 2 shared CPU cores, seed 0
(results/rows/wnli_minilm-6l_0.28_0.json):

    python benchmarks/row.py glue/wnli
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("wnli", learning_rate=2e-5, batch_size=16, epochs=5.0)
