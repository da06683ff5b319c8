"""Sentiment of movie-review sentences, from pretrained weights and data that pip can fetch: a dense model, then one that skims.

    transkimmer train --config configs/quickstart.py

One checkpoint for 50, 40 and 30 % of the dense model's FLOPs, with a third of the neurons of its feed-forward blocks
(results/quickstart.json).
"""

from transkimmer_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, Recipe, SkimConfig, TrainConfig


def get_config() -> Recipe:
    common = Config(
        model=ModelConfig(pretrained="packaged:minilm-6l"),
        skim=SkimConfig.settling((0.4, 0.5, 0.3)),
        data=DataConfig(task="movie_reviews", max_length=48, length_buckets=(24, 36), grouping_window=300),
        optimizer=OptimizerConfig(learning_rate=7e-5, predictor_learning_rate=1e-3),
        train=TrainConfig(log_every=10),
    )
    return Recipe.of(
        common,
        dense={"train.steps": 300, "train.eval_every": 150},
        skimming={"train.steps": 400, "train.eval_every": 400, "model.intermediate_size": 1 / 3, "optimizer.learning_rate": 1e-4},
    )
