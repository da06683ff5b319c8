"""GLUE: question answering as entailment (QNLI), with the paper's batch: bert-base-uncased, 64 examples a step, 3 epochs, lr 2e-5.

    python train.py --config configs/glue_qnli.py

The paper's own objective, a constant skim coefficient and predictors of the hidden size that start at +-5 (Guan et al., 2022, section 5):

    python train.py --config configs/glue_qnli.py --config.skim.objective=coefficient --config.skim.coefficient=0.5 \
        --config.skim.initial_bias=5 --config.skim.predictor_size=768 --config.optimizer.predictor_learning_rate=none

A row of docs/results.md, dense and skimming, on the 10 % of the training set that was at hand, timed. The dense model's accuracy was 81.8,
the skimming one's 76.0 at 3.6 times fewer FLOPs, on 2 shared CPU cores, seed 0 (results/rows/qnli_minilm-6l_0.28_0.json):

    python benchmarks/row.py glue/qnli

The first four layers of such a dense model, in more steps and with 10,000 pairs of other tasks without labels: 79.7 at 3.6 times fewer
FLOPs than all six (results/rows/qnli_minilm-6l_0.28_0_10000_1964steps_4layers.json):

    python benchmarks/row.py glue/qnli --pairs 10000 --layers 4 --steps 1964

With e5-small-12l, of which the skimming model has the first eight layers: 84.3, and 79.9 at 3.6 times fewer FLOPs than all twelve
(results/rows/qnli_e5-small-12l_0.28_0_8layers.json):

    python benchmarks/row.py glue/qnli --backbone e5-small-12l --layers 8
"""

from configs import base
from transkimmer_jax.config import Config


def get_config() -> Config:
    return base.glue("qnli", learning_rate=2e-5, batch_size=64, epochs=3.0)
