"""QNLI as in the paper (Guan et al., 2022, section 5): BERT-base, a constant skim coefficient, predictors of the hidden size.

    transkimmer train --config configs/qnli_paper.py

Attention is renormalised over the kept tokens all the same, and the skim loss counts real tokens (docs/design.md, sections 1.4
and 1.6). Never run: bert-base-uncased was not at hand.
"""

from transkimmer_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, SkimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(pretrained="bert-base-uncased"),
        skim=SkimConfig(coefficient=0.5, initial_bias=5.0, predictor_size=768),
        data=DataConfig(task="glue/qnli", batch_size=64),
        optimizer=OptimizerConfig(learning_rate=2e-5),
        train=TrainConfig(epochs=3.0),
    )
