"""GLUE: linguistic acceptability (CoLA).

    python train.py --config configs/glue_cola.py

Another encoder, another budget:

    python train.py --config configs/glue_cola.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3

A row of docs/results.md, dense and skimming, scored and timed. The dense model gave a Matthews correlation of 30.2, the skimming one
14.3 at 3.6 times fewer FLOPs, on 2 shared CPU cores, seed 0 (results/rows/cola_minilm-6l_0.28_0.json):

    python benchmarks/row.py glue/cola

The first four of the six layers gave 21.2 at as many, from dense models of 29.6, on average over seeds 0, 1 and 2; the three lost 10.9, 3.5
and 10.8 (results/rows/cola_minilm-6l_0.28_SEED_4layers.json):

    python benchmarks/row.py glue/cola --layers 4 [--seed 1]
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("cola", learning_rate=2e-5, batch_size=32, epochs=5.0)
