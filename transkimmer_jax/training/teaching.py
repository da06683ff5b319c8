"""What a dense teacher says of a run's texts, asked before the steps.

Asking is a forward pass of the teacher, which may cost as much as a whole step of a small student. A text that is read several times is
asked about once, where the answers are few numbers.
"""

import dataclasses
import math

from flax import nnx

from transkimmer_jax.config import Config
from transkimmer_jax.data.batches import EvaluationBatches
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed import processes
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.evaluation import masked
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.training.inputs import RunInputs, Split

_MOST_BYTES = 2**30  # of answers, in each process; an embedder's are of 350,000 texts at H=768


def ask(
    config: Config, task: Task, teacher: TranskimmerPreTrainedModel, inputs: RunInputs, total_steps: int, placement: Placement
) -> tuple[RunInputs, nnx.State | None]:
    """What a run reads, with the teacher's answers; and the teacher's parameters on the devices, where the steps ask it themselves.

    Where the task is to answer as the teacher, its answers on held-out texts stand in place of labels; but not on those of the threshold,
    which is fitted without any.
    """
    graph, state = nnx.split(teacher)
    step, params = masked.evaluation_step(graph, placement), placement.put(state)

    def answers(batches: EvaluationBatches, texts: str) -> Predictions:
        bar = f"asking the teacher, {texts} texts" if processes.is_first() else None
        return masked.predict(step, params, batches, batches.examples, 0.0, bar)

    def judged(split: Split) -> Split:
        return dataclasses.replace(split, labels=answers(split.batches, "held-out"))

    if task.judge == "teacher":
        validation, test = ({name: judged(split) for name, split in splits.items()} for splits in (inputs.validation, inputs.test))
        inputs = dataclasses.replace(inputs, validation=validation, test=test)
    if not _saves(config, teacher, inputs, total_steps):
        return inputs, params
    outputs = answers(inputs.training_pass, "training").outputs
    return dataclasses.replace(inputs, training=dataclasses.replace(inputs.training, answers=outputs)), None


def _saves(config: Config, teacher: TranskimmerPreTrainedModel, inputs: RunInputs, total_steps: int) -> bool:
    """Whether asking once about every training text costs less than asking at every step.

    Not where the head answers each token, or where answers would fill the memory.
    """
    size = sum(math.inf if output.per_token else math.prod(output.shape) for output in teacher.outputs)
    read = total_steps * config.data.batch_size
    return read > len(inputs.training) and 4 * size * len(inputs.training) <= _MOST_BYTES
