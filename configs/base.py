"""What the configs of this folder share: the recipe for fine-tuning BERT-base on GLUE with a budget."""

from transkimmer_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, SkimConfig, TrainConfig


def glue(name: str, *, learning_rate: float = 2e-5, batch_size: int = 32, epochs: float = 3.0, eval_every: int | None = None) -> Config:
    """The config of one GLUE task, starting from bert-base-uncased."""
    return Config(
        model=ModelConfig(pretrained="bert-base-uncased"),
        skim=SkimConfig(objective="budget", initial_bias=2.0),
        data=DataConfig(task=f"glue/{name}", batch_size=batch_size),
        optimizer=OptimizerConfig(learning_rate=learning_rate, predictor_learning_rate=1e-3),
        train=TrainConfig(epochs=epochs, eval_every=eval_every),
    )
