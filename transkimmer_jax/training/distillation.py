"""The recipe of distillation without labels: an encoder that works, and texts, give one that spends a stated share of its FLOPs."""

from transkimmer_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, SkimConfig, TrainConfig

TARGET = 0.4


def distil_config() -> Config:
    """What `transkimmer distil` trains by, but for teacher and texts."""
    return Config(
        # The student answers as the evaluated teacher does, so that dropout would be noise alone.
        model=ModelConfig(hidden_dropout=0.0, attention_dropout=0.0),
        skim=SkimConfig(target=TARGET, initial_bias=2.0, warmup=0.02, noise_end=0.75),
        data=DataConfig(task="texts", batch_size=64, eval_examples=1000, length_buckets=(16, 24, 32, 48, 64, 128, 256, 512)),
        optimizer=OptimizerConfig(learning_rate=1e-4, predictor_learning_rate=1e-3),
        train=TrainConfig(epochs=3.0),
    )
