"""Your own labelled texts, some thousands of them: JSONL or CSV with a text column (or two, for pairs) and a `label` column.

    transkimmer train --config configs/files.py --config.data.train_file=train.jsonl --config.data.validation_file=dev.jsonl \\
        --config.data.test_file=test.jsonl

Labels are ints or strings for classes, lists of these where a text has any number of them, floats for regression. Without a validation
file a tenth of the training file is held out; a test file is scored at the end, and nothing is chosen on it.

The skimming model has a third of the neurons of the encoder's feed-forward blocks. It is for 50, 40 and 28.5 % of what the dense
model spends. Another encoder, other budgets, longer texts, and more passes for fewer texts:

    --config.model.pretrained=DIR
    --config.skim.target=0.4 --config.skim.levels=0.5
    --config.data.max_length=256
    --config.train.epochs=8
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe

_LENGTH = base.Length(dense=(1e-4, 4.0), skimming=(1e-4, 6.0))


def get_config() -> Recipe:
    # A program is compiled for every padded length, which counts where a run takes minutes.
    data = DataConfig(task="files", length_buckets=(16, 32, 64, 128, 256, 384, 512))
    return base.recipe(data, _LENGTH, base.NARROW)
