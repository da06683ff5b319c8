"""Sentiment of movie-review sentences, from pretrained weights and data that pip can fetch: a dense model, then one that skims.

    transkimmer train --config configs/quickstart.py

One checkpoint for 50, 40 and 30 % of the dense model's FLOPs, with a third of the neurons of its feed-forward blocks
(results/quickstart.json).
"""

from transkimmer_jax.config import (
    DENSE_MODEL,
    Config,
    DataConfig,
    DistillConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    SkimConfig,
    TrainConfig,
)


def get_config() -> Recipe:
    data = DataConfig(task="movie_reviews", max_length=48, length_buckets=(24, 36), grouping_window=300)
    return Recipe(
        dense=Config(
            model=ModelConfig(pretrained="packaged:minilm-6l"),
            skim=SkimConfig(enabled=False),
            data=data,
            optimizer=OptimizerConfig(learning_rate=7e-5, predictor_learning_rate=1e-3),
            train=TrainConfig(steps=300, eval_every=150, log_every=10),
        ),
        skimming=Config(
            model=ModelConfig(pretrained=DENSE_MODEL, intermediate_size=1 / 3),
            skim=SkimConfig(target=0.4, levels=(0.5, 0.3)),
            distill=DistillConfig(teacher=DENSE_MODEL),
            data=data,
            optimizer=OptimizerConfig(learning_rate=1e-4, predictor_learning_rate=1e-3),
            train=TrainConfig(steps=400, eval_every=400, log_every=10),
        ),
    )
