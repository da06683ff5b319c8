"""The recipe of distillation without labels: an encoder that works, and texts, give one that spends a stated share of its FLOPs."""

from collections.abc import Sequence
from typing import Literal

from transkimmer_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, with_fields

TARGET = 0.4


def distil_config(
    teacher: str | None = None,
    text_files: Sequence[str] = (),
    *,
    text_columns: Sequence[str] = DataConfig().text_columns,
    targets: Sequence[float] = (TARGET,),
    pooling: Literal["mean", "cls"] | None = None,
    max_length: int | None = None,
) -> Config:
    """What `transkimmer distil` trains by. Arguments are fields of the config; without a teacher and texts they are still to be set.

    targets: shares of the dense model's FLOPs; the student is for all of them, and its own threshold is that of the first.

    Raises:
      ConfigError: an unfit value.
    """
    return with_fields(
        Config(
            # The student answers as the evaluated teacher does, so dropout would only be noise.
            model=ModelConfig(dropout=0.0),
            data=DataConfig(
                task="texts",
                eval_examples=1000,
                length_buckets=(16, 24, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096),
            ),
            optimizer=OptimizerConfig(learning_rate=1e-4, predictor_learning_rate=1e-3),
        ),
        {
            **({} if teacher is None else {"model.pretrained": teacher, "distill.teacher": teacher}),
            "model.pooling": pooling,
            "skim.target": targets[0],
            "skim.levels": targets[1:],
            "data.text_files": text_files,
            "data.text_columns": text_columns,
            "data.max_length": max_length,
        },
    )
