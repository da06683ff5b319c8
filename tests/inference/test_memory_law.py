"""Compacted inference needs no more memory than dense: what may wait and be looked up is reckoned, here against what XLA says that the
programs need which the same texts run through."""

import numpy as np
import pytest
from inference.skimmers import make_examples, stages_beginning

from transkimmer_jax.benchmarking import contenders, workloads
from transkimmer_jax.inference.call import IN_FLIGHT
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture

# A head for every 32 of the hidden size and four times as wide inside, as of the real models with three times the hidden size.
ARCH = Architecture(
    vocab_size=500, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, max_position_embeddings=64,
    skim=SkimArchitecture(predictor_size=32),
)  # fmt: skip


def needed(engine):
    """Bytes at most, of the programs that have run: temporaries of one, and what comes out of one."""
    found = [engine.programs._compiled[schedule].memory_analysis() for schedule in engine.programs.calls]
    return max(each.temp_size_in_bytes for each in found), max(each.output_size_in_bytes for each in found)


@pytest.mark.parametrize("first", [(), (1, 3), (1,)], ids=str)
@pytest.mark.parametrize("batch_size", [8, 32])
def test_no_more_than_dense(batch_size, first):
    """With stages that begin with these layers; (): every layer."""
    model = workloads.synthetic(ARCH, [0.6, 0.35, 0.2, 0.1], batch_size, 64, examples=1).model
    texts = make_examples(np.random.default_rng(0).integers(16, 65, 8 * batch_size), vocab_size=500)
    options = {"batch_size": batch_size, "max_length": 64, "threshold": 0.0}
    engine, dense = SkimEngine(model, **options), SkimEngine(contenders.without_predictors(model), **options)
    for each in (engine, dense):
        with stages_beginning(*first):
            each.calibrate(texts)
        # The first ones were for texts of any lengths.
        each.programs.calls.clear()
        each.predict_tokenized(texts)
    temporaries, states = needed(engine)
    there = IN_FLIGHT * needed(dense)[0]
    may_wait = engine._waiting_bytes + engine._first.room
    # States go into a program as well as come out of it.
    assert may_wait + IN_FLIGHT * (temporaries + 2 * states) <= there
    if first != (1,):
        assert may_wait > 0.3 * there, "room is used, else batches are emptier than they need be"
