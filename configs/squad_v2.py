"""SQuAD 2.0: spans of a context that answer a question, or none. Questions are never skimmed; long contexts are read in windows.

    transkimmer train --config configs/squad_v2.py

Scored by F1 of words and exact match, as the official script does; there is no answer where position 0 scores higher than the best span.
Never run: the data was not at hand.

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, with all layers and neurons.
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    return base.reading_recipe(DataConfig(task="squad/v2.0"), base.LARGE)
