"""What the recipes of this folder share: the packaged 6-layer MiniLM, one checkpoint for several budgets, and how long each run takes."""

import dataclasses
from typing import Any

from transkimmer_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, Recipe, SkimConfig, TrainConfig

# (peak learning rate, passes). Of a few thousand texts the dense model makes five passes at 1e-4, of SST-2's 67,349 fewer at 5e-5. Skimming
# starts from there, and takes longer: its loss goes on falling long after the target is reached.
SMALL = {"dense": (1e-4, 5.0), "skimming": (1e-4, 8.0)}
MIDDLE = {"dense": (1e-4, 2.0), "skimming": (1e-4, 3.0)}
LARGE = {"dense": (5e-5, 2.0), "skimming": (1e-4, 1.0)}
# What the skimming model has of MiniLM, so that more of a budget goes into tokens: a third of the neurons of the feed-forward blocks, of
# all six layers or of the first four. The latter spend 37 to 39 % of the FLOPs with all tokens, so their budgets lie below that. Which
# loses least stands in docs/ablations.md.
THIRD_OF_NEURONS = {"model.intermediate_size": 1 / 3}
NARROW_FIRST_LAYERS = THIRD_OF_NEURONS | {"model.num_hidden_layers": 4, "skim.levels": (0.33,)}
# The same with one predictor, before the first layer, for four: it loses no more, and takes less time (docs/ablations.md).
DECIDING_ONCE = NARROW_FIRST_LAYERS | {"skim.layers": (0,)}
# Of long texts, which can spare more tokens, the first four layers have all neurons: they lose as little, and take less time
# (docs/ablations.md, by students that `transkimmer distil` made).
OF_LONG_TEXTS = {"model.num_hidden_layers": 4, "skim.layers": (0,)}
ALL: dict[str, Any] = {}


def recipe(data: DataConfig, length: dict[str, tuple[float, float]], part: dict[str, Any]) -> Recipe:
    """Dense, then skimming, on `data`. part: what the skimming model has of the dense one."""
    common = Config(
        model=ModelConfig(pretrained="packaged:minilm-6l"),
        skim=SkimConfig.settling((0.285, 0.5, 0.4)),
        data=data,
        optimizer=OptimizerConfig(predictor_learning_rate=1e-3),
        train=TrainConfig(),
    )
    own = {run: {"optimizer.learning_rate": rate, "train.epochs": passes} for run, (rate, passes) in length.items()}
    return Recipe.of(common, dense=own["dense"], skimming=own["skimming"] | part)


def reading_recipe(data: DataConfig, length: dict[str, tuple[float, float]]) -> Recipe:
    """The same for questions, which are never skimmed, and with all layers and neurons."""
    common = recipe(data, length, ALL)
    skim = dataclasses.replace(common.skimming.skim, pinned="first_segment")
    return dataclasses.replace(common, skimming=dataclasses.replace(common.skimming, skim=skim))
