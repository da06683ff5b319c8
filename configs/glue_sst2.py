"""GLUE: sentiment (SST-2).

    python train.py --config configs/glue_sst2.py

Another encoder, another budget:

    python train.py --config configs/glue_sst2.py --config.model.pretrained=packaged:minilm-6l --config.skim.target=0.3

The dense baseline of the 6-layer MiniLM on 20,000 examples gave 87.0 % in 7 minutes on 2 shared CPU cores, seed 0
(results/sst2_minilm-6l_dense.json):

    python train.py --config configs/glue_sst2.py --config.model.pretrained=packaged:minilm-6l --config.skim.enabled=false \
        --config.data.train_examples=20000 --config.train.epochs=1 --config.optimizer.learning_rate=5e-5

On all 67,349 texts it gave 90.7 %, in 54 minutes on the same cores beside other work, seed 0 (results/sst2_minilm-6l_dense_full.json):

    python train.py --config configs/glue_sst2.py --config.model.pretrained=packaged:minilm-6l --config.skim.enabled=false \
        --config.train.epochs=2 --config.optimizer.learning_rate=5e-5

A row of docs/results.md, dense and skimming, scored and timed. From a dense model of 90.0 %, by these commands on another machine, skimming
gave 83.9 % at 3.6 times fewer FLOPs, in 13 minutes on 2 cores, seed 0 (results/rows/sst2_minilm-6l_0.28_0.json):

    python benchmarks/row.py glue/sst2

With 100,000 sentences of IMDB's reviews, without labels, beside the training texts it gave 86.6 % at 3.6 times fewer FLOPs, from the same
dense model, skimming trained for 38 minutes, seed 0 (results/rows/sst2_minilm-6l_0.28_0_100000.json):

    python benchmarks/row.py glue/sst2 --sentences 100000

With the first four of the six layers besides it gave 88.2 % at 3.6 times fewer FLOPs, from a dense model of 90.0 %, skimming trained for 30
minutes, seed 0 (results/rows/sst2_minilm-6l_0.28_0_100000_4layers.json):

    python benchmarks/row.py glue/sst2 --sentences 100000 --layers 4

At half of the FLOPs it gave 87.4 %, from a dense model of 90.0 %, skimming trained for 28 minutes beside other work, seed 0
(results/rows/sst2_minilm-6l_0.5_0.json):

    python benchmarks/row.py glue/sst2 --target 0.5

The 12-layer E5 gave 90.5 % dense and 80.3 % at 3.6 times fewer FLOPs,
skimming trained for 39 minutes on the same cores beside other work, seed 0 (results/rows/sst2_e5-small-12l_0.28_0.json):

    python benchmarks/row.py glue/sst2 --backbone e5-small-12l
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("sst2", learning_rate=2e-5, batch_size=32, epochs=3.0)
