"""Your own questions with answers in a context: JSONL with `question`, `context` and `answers`.

    transkimmer train --config configs/files_questions.py --config.data.train_file=train.jsonl --config.data.validation_file=dev.jsonl

`answers` is {"text": [...], "answer_start": [...]}, as SQuAD's are in most libraries; of a question that the context does not answer both
are empty. Questions are never skimmed. Contexts longer than --config.data.max_length=384 tokens are read in windows that share
--config.data.doc_stride=128 of them.

One checkpoint for 50, 40 and 28.5 % of the dense model's FLOPs, with all layers and neurons.
"""

from configs import base
from transkimmer_jax.config import DataConfig, Recipe


def get_config() -> Recipe:
    data = DataConfig(
        task="questions", text_columns=("question", "context"), label_column="answers", length_buckets=(32, 64, 128, 256, 384, 512)
    )
    return base.reading_recipe(data, base.SMALL)
