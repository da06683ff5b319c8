"""What the recipes of this folder share: the packaged 6-layer MiniLM, 28 % of the dense model's FLOPs, and how long each run takes."""

import dataclasses

from transkimmer_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, Recipe, SkimConfig, TrainConfig

# (peak learning rate, passes). Of a few thousand texts the dense model makes six passes at 1e-4, of SST-2's 67,349 fewer at 5e-5. Skimming
# starts from there at 5e-5, and takes longer: its loss goes on falling long after the target is reached.
SMALL = {"dense": (1e-4, 6.0), "skimming": (5e-5, 8.0)}
MIDDLE = {"dense": (1e-4, 2.0), "skimming": (5e-5, 2.0)}
LARGE = {"dense": (5e-5, 2.0), "skimming": (5e-5, 1.0)}


def recipe(data: DataConfig, length: dict[str, tuple[float, float]]) -> Recipe:
    """Dense, then skimming, on `data`."""
    common = Config(
        model=ModelConfig(pretrained="packaged:minilm-6l"),
        skim=SkimConfig(target=0.28, initial_bias=2.0),
        data=data,
        optimizer=OptimizerConfig(predictor_learning_rate=1e-3),
        train=TrainConfig(),
    )
    own = {run: {"optimizer.learning_rate": rate, "train.epochs": passes} for run, (rate, passes) in length.items()}
    return Recipe.of(common, dense=own["dense"], skimming=own["skimming"])


def reading_recipe(data: DataConfig, length: dict[str, tuple[float, float]]) -> Recipe:
    """The same for questions, which are never skimmed: at 40 %, as their tokens stay."""
    common = recipe(data, length)
    skim = dataclasses.replace(common.skimming.skim, pinned="first_segment", target=0.4)
    return dataclasses.replace(common, skimming=dataclasses.replace(common.skimming, skim=skim))
