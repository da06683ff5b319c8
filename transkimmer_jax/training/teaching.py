"""What a dense teacher says of a run's texts, asked before the steps.

Asking is a forward pass of the teacher, which may cost as much as a whole step of a small student. A text that is read several times is
asked about once, where the answers are few numbers.
"""

import dataclasses
import math
from typing import Any

from transkimmer_jax.config import Config
from transkimmer_jax.evaluation import masked
from transkimmer_jax.evaluation.masked import EvaluationStep
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.parallel import processes
from transkimmer_jax.training.inputs import RunInputs, Split

_MOST_BYTES = 2**30  # of answers, in each process; an embedder's are of 350,000 texts at H=768


def judged(teacher: EvaluationStep, params: Any, inputs: RunInputs) -> RunInputs:
    """The splits with a dense teacher's predictions in place of labels, but for that of the threshold, which is fitted without any.

    teacher: what `masked.evaluation_step` returned for it.
    """

    def answered(split: Split) -> Split:
        labels = masked.predict(teacher, params, split.batches, split.batches.examples, 0.0, _bar())
        return dataclasses.replace(split, labels=labels)

    return dataclasses.replace(
        inputs,
        validation={name: answered(split) for name, split in inputs.validation.items()},
        test={name: answered(split) for name, split in inputs.test.items()},
    )


def saves(config: Config, teacher: TranskimmerPreTrainedModel, inputs: RunInputs, total_steps: int) -> bool:
    """Whether asking once about every training text costs less than asking at every step.

    Not where tokens are replaced, which makes new texts; where the head answers each token; or where answers would fill the memory.
    """
    size = sum(math.inf if output.per_token else math.prod(output.shape) for output in teacher.outputs)
    read = total_steps * config.data.batch_size
    return config.distill.token_noise == 0 and read > len(inputs.training) and 4 * size * len(inputs.training) <= _MOST_BYTES


def answered(teacher: EvaluationStep, params: Any, inputs: RunInputs) -> RunInputs:
    """The training texts with the teacher's answers, which `TrainStep.update` then takes. teacher: as of `judged`."""
    predictions = masked.predict(teacher, params, inputs.training_pass, inputs.training_pass.examples, 0.0, _bar())
    return dataclasses.replace(inputs, training=dataclasses.replace(inputs.training, answers=predictions.outputs))


def _bar() -> str | None:
    return "asking the teacher" if processes.is_first() else None
