"""The FLOPs counter against hand-counted numbers and against XLA's own count of the compiled model (docs/design.md, section 2.2)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import subjaxprs

from transkimmer_jax.models import encoder, flops
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.models.heads import HEADS

ARCH = Architecture(
    hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6, num_labels=2, skim=SkimArchitecture(predictor_size=3)
)
DENSE = dataclasses.replace(ARCH, skim=None)
# A multiply and an add are two. Per token and layer: query, key, value and output 4 * 4*4 products, up and down 2 * 4*6.
TOKEN = 2 * (4 * 16 + 2 * 24)
# In the last layer a token only gives key and value, and position 0 alone has the rest.
KEY = 2 * (2 * 16)
QUERY = 2 * (2 * 16 + 2 * 24)
# Per pair: 4 products for the score, 4 for the mixing.
PAIR = 2 * (4 + 4)
# Per token that a predictor reads: 4*3 to its width, and 3 for the margin, which is one product with a difference of columns.
PREDICTED = 2 * (12 + 3)
# Pooler 4*4, classifier 4*2.
HEAD = 2 * (16 + 8)


def test_parts():
    assert flops.per_token(ARCH) == TOKEN == KEY + QUERY == 224
    assert flops.per_token_pair(ARCH) == PAIR == 16
    assert flops.per_predicted_token(ARCH) == PREDICTED == 30
    assert flops.per_predicted_token(DENSE) == 0
    assert flops.head(ARCH) == HEAD == 48


def test_predictor_is_as_wide_as_the_hidden_state_by_default():
    assert flops.per_predicted_token(dataclasses.replace(ARCH, skim=SkimArchitecture())) == 2 * (16 + 4)


def test_hand_counted_examples():
    """Two examples at once: 5 tokens of which 3 and then 2 are kept, 4 tokens of which 1 is."""
    kept, lengths = np.array([[3.0, 1.0], [2.0, 1.0]]), np.array([5.0, 4.0])
    first = 48 + (30 * 5 + 224 * 3 + 16 * 9) + (30 * 3 + 64 * 2 + 160 + 16 * 2)
    second = 48 + (30 * 4 + 224 * 1 + 16 * 1) + (30 * 1 + 64 * 1 + 160 + 16 * 1)
    assert (first, second) == (1424, 678)
    assert flops.skimmed(ARCH, kept, lengths).tolist() == [1424, 678]
    five, four = 48 + (224 * 5 + 16 * 25) + (64 * 5 + 160 + 16 * 5), 48 + (224 * 4 + 16 * 16) + (64 * 4 + 160 + 16 * 4)
    assert flops.dense(ARCH, lengths).tolist() == [five, four] == [2128, 1680]


def test_layers_without_a_predictor():
    """5 tokens, of which 3 are kept: from the first layer on, or in the second alone, whose predictor sees all 5."""
    of_layers = [dataclasses.replace(ARCH, skim=SkimArchitecture(3, layers=layers)) for layers in ((0,), (1,))]
    first = 48 + (30 * 5 + 224 * 3 + 16 * 9) + (64 * 3 + 160 + 16 * 3)
    second = 48 + (224 * 5 + 16 * 25) + (30 * 5 + 64 * 3 + 160 + 16 * 3)
    for arch, kept, expected in zip(of_layers, ([3.0, 3.0], [5.0, 3.0]), (first, second), strict=True):
        assert flops.skimmed(arch, np.array(kept)[:, None], np.array([5.0])).tolist() == [expected]


def test_the_first_layer_alone_is_compared_with_all():
    lengths = np.array([5.0, 4.0])
    for arch in (ARCH, DENSE):
        cut = dataclasses.replace(arch, num_hidden_layers=1, dense_layers=2)
        assert flops.dense(cut, lengths).tolist() == [2128, 1680]
    assert flops.skimmed(cut, lengths[None], lengths).tolist() == [48 + (64 * 5 + 160 + 16 * 5), 48 + (64 * 4 + 160 + 16 * 4)]


lengths_lists = st.lists(st.integers(1, 512), min_size=1, max_size=5)


@settings(deadline=None)
@given(lengths_lists)
def test_everything_kept_is_dense_plus_predictors(lengths):
    lengths = np.array(lengths, np.float64)
    kept = np.stack([lengths, lengths])
    assert flops.skimmed(ARCH, kept, lengths).tolist() == (flops.dense(ARCH, lengths) + 2 * PREDICTED * lengths).tolist()
    assert flops.skimmed(DENSE, kept, lengths).tolist() == flops.dense(DENSE, lengths).tolist()


@settings(deadline=None)
@given(st.lists(st.integers(1, 512), min_size=3, max_size=3), st.integers(0, 1))
def test_one_token_more_costs_more(numbers, layer):
    length, first, second = sorted(numbers, reverse=True)
    kept = np.array([[first], [second]], np.float64)
    more = kept.copy()
    more[layer] += 1
    cost, dearer = (flops.skimmed(ARCH, counts, np.array([float(length)]))[0] for counts in (kept, more))
    # The next layer's predictor reads what the first layer keeps; what the last one keeps, position 0 attends to.
    assert dearer - cost == (TOKEN + PAIR * (2 * kept[layer, 0] + 1) + PREDICTED if layer == 0 else KEY + PAIR)


def test_gradient():
    """The derivative by the counts, which is what training follows."""
    kept, lengths = jnp.array([[3.0, 1.0], [2.0, 1.0]]), jnp.array([5.0, 4.0])
    gradient = jax.grad(lambda kept: jnp.sum(flops.skimmed(ARCH, kept, lengths)))(kept)
    first = [TOKEN + 2 * PAIR * count + PREDICTED for count in (3, 1)]
    last = [KEY + PAIR, KEY + PAIR]
    assert gradient.tolist() == [first, last]


def real_size(skim, hidden, layers, intermediate):
    return Architecture(
        vocab_size=50, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=intermediate,
        max_position_embeddings=128, skim=skim,
    )  # fmt: skip


BATCH, LENGTH = 2, 128
sizes = pytest.mark.parametrize(("hidden", "layers", "intermediate"), [(384, 6, 1536), (768, 2, 3072)])


def traced(arch):
    """The forward pass up to what the head computes, on BATCH examples of LENGTH tokens, for `jax.jit`'s stages."""
    graph, params = jax.eval_shape(lambda: nnx.split(HEADS[arch.head](arch, rngs=nnx.Rngs(0))))
    ids = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)

    def answers(params, ids):
        model = nnx.merge(graph, params)
        out = model(ids, only_logits=True)
        return [getattr(out, output.name) for output in model.outputs]

    return jax.jit(answers).trace(params, ids)


def product_flops(jaxpr):
    """Two operations for every multiply and add of the matrix products of a jaxpr, however deep they lie."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            # Of the forms that platforms have of one computation, one runs.
            total += product_flops(equation.params["branches"][-1].jaxpr) - sum(
                map(product_flops, subjaxprs(jaxpr.replace(eqns=[equation])))
            )
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * terms
    return total + sum(map(product_flops, subjaxprs(jaxpr)))


@sizes
@pytest.mark.parametrize("skim", [None, SkimArchitecture(), SkimArchitecture(predictor_size=64)], ids=["dense", "P=H", "P=64"])
def test_the_models_matrix_products_are_what_is_counted(skim, hidden, layers, intermediate):
    """To the last operation, on the program that is run; masked computation computes every token."""
    arch = real_size(skim, hidden, layers, intermediate)
    lengths = np.full(BATCH, float(LENGTH))
    kept = np.broadcast_to(lengths, (layers, BATCH))
    assert product_flops(traced(arch).jaxpr.jaxpr) == flops.skimmed(arch, kept, lengths).sum()


MODERN = {"backbone": "modernbert", "local_layers": (1,)}
# Of texts of LENGTH tokens, distances beyond 32 share rows.
DISENTANGLED = {"backbone": "deberta-v2", "position_buckets": 64, "max_relative_positions": 128}


def row_operations(arch):
    """Operations by which layers make keys and queries of what rows there are of distances, once for all examples."""
    if not arch.kind.disentangled:
        return 0
    # From the furthest earlier key's to the furthest later one's.
    ranged = 32 + math.ceil(math.log((LENGTH - 1) / 32) / math.log(127 / 32) * 31)
    rows = min(64 + ranged, 127) - (64 - ranged) + 1
    assert 2 * 32 + 1 < rows < 2 * LENGTH - 1
    return 2 * 2 * arch.hidden_size**2 * rows * arch.num_hidden_layers


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "distilbert"},
        {"backbone": "electra", "embedding_size": 96},
        {"backbone": "mpnet", "position_offset": 2},
        DISENTANGLED,
        MODERN,
    ],
    ids=lambda changes: changes["backbone"],
)
def test_other_backbones_products_are_what_is_counted(changes):
    arch = dataclasses.replace(real_size(SkimArchitecture(predictor_size=64), 384, 2, 1536), type_vocab_size=0, **changes)
    lengths = np.full(BATCH, float(LENGTH))
    counted = flops.skimmed(arch, np.broadcast_to(lengths, (2, BATCH)), lengths).sum()
    assert product_flops(traced(arch).jaxpr.jaxpr) == counted + row_operations(arch)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("changes", [{}, DISENTANGLED, MODERN], ids=["bert", "deberta-v2", "modernbert"])
def test_a_last_layer_computes_what_its_head_reads(head, pooling, changes):
    """To the last operation, again: all tokens, or position 0 alone."""
    changes = {name: value for name, value in (changes | {"classifier_pooling": pooling}).items() if changes}
    arch = dataclasses.replace(
        real_size(SkimArchitecture(), 48, 2, 96), head=head, num_labels=5, pooling=PoolingArchitecture(pooling), **changes
    )
    lengths = np.full(BATCH, float(LENGTH))
    counted = flops.skimmed(arch, np.broadcast_to(lengths, (2, BATCH)), lengths).sum()
    assert product_flops(traced(arch).jaxpr.jaxpr) == counted + row_operations(arch)


@sizes
@pytest.mark.parametrize("changes", [{}, MODERN], ids=["bert", "modernbert"])
def test_xla_counts_the_same(monkeypatch, hidden, layers, intermediate, changes):
    """XLA counts what is elementwise too, which adds less than 1 %. GELU aside: its erf alone, a polynomial, would be 1.4 to 2.7 %."""
    monkeypatch.setattr(encoder, "gelu", lambda x: x)
    arch = dataclasses.replace(real_size(None, hidden, layers, intermediate), **changes)
    ours = flops.dense(arch, np.full(BATCH, float(LENGTH))).sum()
    assert 1 <= traced(arch).lower().cost_analysis()["flops"] / ours < 1.01


@pytest.mark.parametrize("number", [np.array, jnp.array])
def test_distances_of_short_texts_cost_less(number):
    """Hand-counted: 5 tokens are up to 4 apart, so queries and keys of each meet 9 rows; of one token, 1. Those of a last layer meet 1."""
    arch = dataclasses.replace(ARCH, backbone="deberta-v2", max_position_embeddings=40)
    plain = dataclasses.replace(ARCH, type_vocab_size=0)
    kept, lengths = number([[3.0, 1.0], [2.0, 1.0]]), number([5.0, 1.0])
    more = flops.skimmed(arch, kept, lengths) - flops.skimmed(plain, kept, lengths)
    row = 2 * 2 * 4
    assert more.tolist() == [row * (9 * 3 + 2), row * (1 + 1)]


def test_xla_counts_the_same_of_bert_base():
    """All that is elementwise included, GELU's polynomial too, on the paper's own model: within 2 % (docs/design.md, section 2.2)."""
    arch = dataclasses.replace(real_size(None, 768, 12, 3072), vocab_size=30522)
    ours = flops.dense(arch, np.full(BATCH, float(LENGTH))).sum()
    assert 1 <= traced(arch).lower().cost_analysis()["flops"] / ours < 1.02
