"""The recipe that this folder's configs share: the packaged 6-layer MiniLM, dense and then skimming, one checkpoint for several budgets."""

import dataclasses

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


@dataclasses.dataclass(frozen=True)
class Length:
    """Peak learning rates, and passes over the data, of the dense and the skimming run."""

    dense: tuple[float, float]
    skimming: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Student:
    """The skimming model: its part of the dense one, the layers with a predictor, and its budgets beside 28.5 %."""

    layers: int | None = None
    neurons: float | None = None
    predictors: tuple[int, ...] | None = None
    budgets: tuple[float, ...] = (0.5, 0.4)


# A few thousand texts take more passes. The skimming run is longer: its loss goes on falling long after the budget is reached.
SMALL = Length(dense=(1e-4, 5.0), skimming=(1e-4, 8.0))
MIDDLE = Length(dense=(1e-4, 2.0), skimming=(1e-4, 3.0))
LARGE = Length(dense=(5e-5, 2.0), skimming=(1e-4, 1.0))
# Fewer layers and neurons leave more of a budget for tokens (docs/ablations.md). Four layers with a third of the neurons cost 37 to 39 %
# with all tokens, so their budgets lie below that. Long texts can spare more tokens, so their students keep all neurons.
WHOLE = Student()
NARROW = Student(neurons=1 / 3)
NARROW_FIRST_LAYERS = Student(layers=4, neurons=1 / 3, budgets=(0.33,))
ONE_PREDICTOR = Student(layers=4, neurons=1 / 3, predictors=(0,), budgets=(0.33,))
LONG_TEXTS = Student(layers=4, predictors=(0,))


def recipe(data: DataConfig, length: Length, student: Student, always_keep: str | None = None) -> Recipe:
    """Dense, then skimming, on `data`."""
    return Recipe(
        dense=Config(
            model=ModelConfig(pretrained="packaged:minilm-6l"),
            skim=SkimConfig(enabled=False),
            data=data,
            optimizer=OptimizerConfig(learning_rate=length.dense[0], predictor_learning_rate=1e-3),
            train=TrainConfig(epochs=length.dense[1]),
        ),
        skimming=Config(
            model=ModelConfig(pretrained=DENSE_MODEL, layers=student.layers, intermediate_size=student.neurons),
            skim=SkimConfig(target=0.285, levels=student.budgets, layers=student.predictors, always_keep=always_keep),
            distill=DistillConfig(teacher=DENSE_MODEL),
            data=data,
            optimizer=OptimizerConfig(learning_rate=length.skimming[0], predictor_learning_rate=1e-3),
            train=TrainConfig(epochs=length.skimming[1]),
        ),
    )


def reading_recipe(data: DataConfig, length: Length) -> Recipe:
    """The same for questions, which are never skimmed, with all layers and neurons."""
    return recipe(data, length, WHOLE, always_keep="first_segment")
