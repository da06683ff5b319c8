"""Texts that every batch of an embedder is compared with: the teacher's vectors of a part of the training texts.

Retrieval asks which of many texts are near. Of so many as these each text has near ones; of those in its batch it rarely has.
"""

from typing import Any

import numpy as np

from transkimmer_jax.config import Config
from transkimmer_jax.data import batches
from transkimmer_jax.evaluation import masked
from transkimmer_jax.evaluation.masked import EvaluationStep
from transkimmer_jax.inference.vectors import unit
from transkimmer_jax.parallel import processes
from transkimmer_jax.training.inputs import RunInputs

COUNT = 4096


def vectors(teacher: EvaluationStep, params: Any, inputs: RunInputs, config: Config) -> np.ndarray:
    """The teacher's vectors of up to `COUNT` training texts, drawn by the seed, [M, H] float32 of length 1.

    teacher: what `masked.evaluation_step` returned for it.
    """
    rows = np.sort(np.random.default_rng(config.train.seed).permutation(len(inputs.training))[:COUNT])
    plan = inputs.plan
    texts = batches.evaluation_batches(inputs.training.take(rows), plan.batch_size, plan.buckets, plan.buckets[-1], inputs.pad_token_id)
    answers = masked.predict(teacher, params, texts, len(rows), 0.0, "landmarks" if processes.is_first() else None)
    values = answers.outputs["sentence_embedding"]
    return unit(values)
