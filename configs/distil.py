"""No labels: a model that works and texts, TXT, JSONL or CSV; the student answers as its teacher does, at 40 % of the teacher's FLOPs.

    transkimmer distil --teacher DIR --texts texts.jsonl --whole --output runs/distilled

is the same as

    transkimmer train --config configs/distil.py --config.model.pretrained=DIR --config.distill.teacher=DIR \\
        --config.data.text_files=texts.jsonl --workdir runs/distilled

The teacher may be a classifier, a cross-encoder, an embedder, a tagger or a model for question answering, in a folder of transformers, of
sentence-transformers or of ours. Columns are named by --config.data.text_columns=query,document: to an embedder each holds texts of its
own, to the others a pair is one input.
"""

from transkimmer_jax.training.distillation import distil_config as get_config

__all__ = ["get_config"]
