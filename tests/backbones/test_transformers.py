"""Law: without skimming, every backbone is that of transformers: on the same weights, each layer's hidden states and the logits equal
those of its PyTorch model to 1e-5 in float32. And what is loaded is saved again bit for bit, under transformers' own names."""

import copy
import json

import jax
import numpy as np
import pytest
import transformers
from backbones import tiny
from flax import nnx
from models.quick import program
from models.reference import relative_error
from safetensors.numpy import load_file
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.distances import distance_rows

torch = pytest.importorskip("torch")

TOLERANCE = 1e-5
backbones = pytest.mark.parametrize("backbone", tiny.BACKBONES)
variants = pytest.mark.parametrize("backbone", tiny.CONFIGS)


def make_batch(model, lengths, width):
    """Random texts, padded as the backbone's tokenizer does; of pairs where it tells the texts of a pair apart."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, tiny.VOCABULARY, (len(lengths), width))
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids[mask == 0] = model.config.pad_token_id
    types = {"token_type_ids": rng.integers(0, 2, ids.shape)} if getattr(model.config, "type_vocab_size", 0) == 2 else {}
    return {"input_ids": ids, "attention_mask": mask} | types


def assert_parity(theirs, ours, batch):
    """Hidden states of all real tokens, and logits."""
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(values) for name, values in batch.items()}, output_hidden_states=True)
    actual = program(ours)(**{name: values.astype(np.int32) for name, values in batch.items()})
    real = batch.get("attention_mask", np.ones_like(batch["input_ids"])).astype(bool)
    # Of pre-norm layers, transformers' last state is normed.
    states = actual.hidden_states if ours.encoder.final_norm is None else (*actual.hidden_states[:-1], actual.last_hidden_state)
    for layer, (a, b) in enumerate(zip(states, expected.hidden_states, strict=True)):
        assert relative_error(np.asarray(a)[real], b.numpy()[real]) < TOLERANCE, f"hidden state {layer}"
    assert relative_error(np.asarray(actual.last_hidden_state)[real], expected.hidden_states[-1].numpy()[real]) < TOLERANCE
    assert relative_error(actual.logits, expected.logits.numpy()) < TOLERANCE


def assert_same_parameters(module, other):
    for ours, theirs in zip(jax.tree.leaves(nnx.state(module)), jax.tree.leaves(nnx.state(other)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@variants
def test_dense(backbone):
    """Of texts as long as they can be, padded ones and the shortest."""
    theirs = tiny.torch_model(backbone)
    assert_parity(theirs, tiny.dense(backbone), make_batch(theirs, (tiny.TOKENS, 11, 1), tiny.TOKENS))


@backbones
def test_fresh_predictors_keep_everything(backbone):
    theirs = tiny.torch_model(backbone)
    ours = TranskimmerForSequenceClassification.from_pretrained(tiny.folder(backbone), dense=False)
    assert ours.arch.skim is not None
    assert_parity(theirs, ours, make_batch(theirs, (tiny.TOKENS, 11, 1), tiny.TOKENS))


def test_one_label_is_regression(tmp_path):
    """Of texts without a mask: all tokens are real."""
    config = copy.deepcopy(tiny.torch_model("bert").config)
    config.num_labels = 1
    theirs = tiny.with_random_vectors(transformers.BertForSequenceClassification(config))
    theirs.save_pretrained(tmp_path)
    ours = TranskimmerForSequenceClassification.from_pretrained(tmp_path)
    assert ours(np.ones((1, 3), np.int32)).logits.shape == (1, 1)
    batch = make_batch(theirs, (12, 12), 12)
    del batch["attention_mask"]
    assert_parity(theirs, ours, batch)


@backbones
def test_some_of_the_layers(backbone):
    """As PyTorch's model computes whose list of layers lacks the second."""
    theirs = copy.deepcopy(tiny.torch_model(backbone))
    (layers,) = (module for module in theirs.base_model.modules() if isinstance(module, torch.nn.ModuleList))
    del layers[1]
    ours = TranskimmerForSequenceClassification.from_pretrained(tiny.folder(backbone), dense=True, layers=(0, 2))
    assert (ours.arch.num_hidden_layers, ours.arch.dense_layers) == (2, 3)
    assert_parity(theirs, ours, make_batch(theirs, (tiny.TOKENS, 11, 1), tiny.TOKENS))


def test_the_layer_that_a_pre_norm_encoder_begins_with():
    with pytest.raises(CheckpointError, match=r"layers=1,2: the first layer of a modernbert checkpoint is of another kind"):
        TranskimmerForSequenceClassification.from_pretrained(tiny.folder("modernbert"), dense=True, layers=(1, 2))


@variants
def test_round_trip_bit_for_bit(backbone, tmp_path):
    """The same tensors under the same names, and a config that makes transformers' class the same model."""
    theirs = tiny.torch_model(backbone)
    tiny.dense(backbone).save_pretrained(tmp_path / "ours", label_names=("a", "b", "c"))
    first, second = (load_file(place / "model.safetensors") for place in (tiny.folder(backbone), tmp_path / "ours"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name], tensor, err_msg=name)
    again, report = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {name: list(keys) for name, keys in report.items() if keys} == {}
    assert type(again) is type(theirs)
    batch = {name: torch.from_numpy(values) for name, values in make_batch(theirs, (13, 6), 13).items()}
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, theirs(**batch).logits)


def test_a_skimming_folder_is_no_hindrance_to_transformers(tmp_path):
    """What we save with predictors, PyTorch's BERT computes as the dense model: the predictors are only left over."""
    theirs = tiny.torch_model("bert")
    ours = TranskimmerForSequenceClassification.from_pretrained(tiny.folder("bert"))
    ours.save_pretrained(tmp_path / "ours", label_names=("a", "b", "c"))
    again, report = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert report["unexpected_keys"]
    assert all("skim_predictors" in name for name in report["unexpected_keys"])
    batch = {name: torch.from_numpy(values) for name, values in make_batch(theirs, (12, 6), 12).items()}
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, theirs(**batch).logits)


@backbones
def test_pytorch_files_and_encoders_without_a_head(backbone, tmp_path):
    """As hubs have them: `pytorch_model.bin`, tensors without the prefix, nothing but the encoder."""
    theirs = tiny.torch_model(backbone)
    torch.save(theirs.base_model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((tiny.folder(backbone) / "config.json").read_text())
    bare = TranskimmerForSequenceClassification.from_pretrained(tmp_path, dense=True)
    whole = tiny.dense(backbone)
    for part in ("embeddings", "encoder"):
        assert_same_parameters(getattr(bare, part), getattr(whole, part))


def test_what_the_training_of_debertas_leaves_in_a_file(tmp_path):
    """As in microsoft/mdeberta-v3-base and deberta-v3-xsmall: heads, tables of positions, and what `weight` adds to the generator's
    embeddings. No model of transformers reads any of it."""
    theirs = tiny.torch_model("deberta-v2").base_model
    tensors = {f"deberta.{name}": tensor for name, tensor in theirs.state_dict().items()}
    left_over = (
        "deberta.embeddings.word_embeddings._weight", "deberta.embeddings.position_embeddings.weight",
        "deberta.embeddings.position_embeddings._weight", "lm_predictions.lm_head.bias", "lm_predictions.lm_head.dense.weight",
        "mask_predictions.classifier.weight", "mask_predictions.LayerNorm.bias",
    )  # fmt: skip
    torch.save(tensors | {name: torch.ones(3) for name in left_over}, tmp_path / "pytorch_model.bin")
    model = TranskimmerForSequenceClassification.from_pretrained(with_config(tmp_path, "deberta-v2"), dense=True)
    assert_same_parameters(model.embeddings, tiny.dense("deberta-v2").embeddings)


@variants
def test_skimming_models_remember_their_backbone(backbone, tmp_path):
    model = tiny.skimming(backbone)
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["model_type"], config["backbone"]) == ("transkimmer", backbone.split()[0])
    again = TranskimmerForSequenceClassification.from_pretrained(tmp_path / "model")
    assert again.arch == model.arch
    assert_same_parameters(again, model)


@pytest.fixture(scope="module")
def real_bert(minilm, tmp_path_factory):
    """Real weights with a seeded classifier, so that there are logits to compare."""
    folder = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification.from_pretrained(minilm, num_labels=3).eval()
    theirs.save_pretrained(folder)
    return theirs, TranskimmerForSequenceClassification.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(minilm)


SENTENCES = [
    "A gorgeous, witty, seductive movie.",
    "The plot is so thin that you can see through it, and none of the actors seems to have noticed.",
    "It never comes to life.",
]
QUESTIONS = ["Who wrote it?", "How many tokens does a transformer need to read before it knows the answer?", "Why?"]


@pytest.mark.parametrize("texts", [(SENTENCES,), (QUESTIONS, SENTENCES)], ids=["single", "pair"])
def test_real_bert(real_bert, texts):
    theirs, ours, tokenizer = real_bert
    batch = dict(tokenizer(*texts, padding="max_length", max_length=48, return_tensors="np"))
    assert not batch["attention_mask"].all()
    assert batch["token_type_ids"].any() == (len(texts) == 2)
    assert_parity(theirs, ours, batch)


@pytest.mark.slow
def test_real_mpnet(mpnet_base):
    """Of texts far longer than the distances that have a bias of their own."""
    theirs = transformers.AutoModel.from_pretrained(mpnet_base).eval()
    ours = TranskimmerForSequenceClassification.from_pretrained(mpnet_base, dense=True)
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(5, 30000, (2, 300)), (np.arange(300) < np.array([[300], [40]])).astype(np.int64)
    ids[mask == 0] = 1
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), torch.from_numpy(mask), output_hidden_states=True).hidden_states
    actual = program(ours)(ids.astype(np.int32), mask.astype(np.int32)).hidden_states
    for layer, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert relative_error(np.asarray(a)[mask > 0], b.numpy()[mask > 0]) < TOLERANCE, f"hidden state {layer}"


def refusal(place):
    with pytest.raises(CheckpointError) as caught:
        TranskimmerForSequenceClassification.from_pretrained(place)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{place}/config.json: ")


def with_config(tmp_path, backbone, **changes):
    config = json.loads((tiny.folder(backbone) / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return tmp_path


def test_an_unsupported_model_type_lists_what_is_supported(tmp_path):
    names = " or ".join(map(repr, (*tiny.BACKBONES, "transkimmer")))
    assert refusal(with_config(tmp_path, "bert", model_type="t5", vocab_size=None)) == f"model_type='t5' is not supported, only {names}"


@pytest.mark.parametrize(
    ("changes", "says"), [({"dim": None}, "dim is missing"), ({"n_layers": 0}, "n_layers=0"), ({"activation": "relu"}, "activation='relu'")]
)
def test_fields_are_named_as_the_file_names_them(tmp_path, changes, says):
    assert refusal(with_config(tmp_path, "distilbert", **changes)).startswith(says)


def test_positions_that_padding_leaves_none_of(tmp_path):
    place = with_config(tmp_path, "roberta", max_position_embeddings=2)
    assert refusal(place) == "max_position_embeddings 2 leaves no position behind the first 2"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # What layers are, and by what angles they rotate, as transformers 5 says it alone, as 4 does, and as 4 leaves it out.
        ({"global_attn_every_n_layers": None}, {"rope_theta": 300.0, "local_rope_theta": 20.0, "local_layers": (1,)}),
        (
            {"layer_types": None, "rope_parameters": None, "global_rope_theta": 300, "local_rope_theta": 20.0, "layer_norm_eps": 1e-5},
            {"rope_theta": 300.0, "local_rope_theta": 20.0, "local_layers": (1,)},
        ),
        (
            {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": None, "local_attention": None},
            {"rope_theta": 160000.0, "local_rope_theta": 10000.0, "local_layers": (1, 2), "local_window": 64},
        ),
    ],
)
def test_either_spelling_of_modernbert(tmp_path, changes, expected):
    place = with_config(tmp_path, "modernbert with biases", **changes)
    arch = config_file.read(place).architecture
    assert {name: getattr(arch, name) for name in expected} == expected
    theirs = transformers.AutoConfig.from_pretrained(place)
    assert tuple(n for n, kind in enumerate(theirs.layer_types) if kind == "sliding_attention") == arch.local_layers
    assert [theirs.rope_parameters[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")] == [
        arch.rope_theta, arch.local_rope_theta,
    ]  # fmt: skip
    assert theirs.local_attention // 2 == arch.local_window


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pos_att_type": "c2p|p2c"}, (8, tiny.TOKENS)),
        ({"pos_att_type": ["p2c", "c2p"], "max_relative_positions": 30}, (8, 30)),
        # As in files of the second and third versions.
        (
            {"attention_head_size": 12, "conv_kernel_size": 0, "embedding_size": 36, "pooler_hidden_size": 36},
            (8, tiny.TOKENS),
        ),
    ],
)
def test_either_spelling_of_deberta(tmp_path, changes, expected):
    arch = config_file.read(with_config(tmp_path, "deberta-v2", **changes)).architecture
    assert (arch.position_buckets, arch.max_relative_positions) == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size=3"),
        ({"relative_attention": None}, "relative_attention is missing"),
        ({"pos_att_type": "c2p"}, "pos_att_type='c2p': only 'p2c|c2p' is supported"),
        ({"pos_att_type": None}, "pos_att_type is missing"),
        ({"pos_att_type": [["c2p"], 3]}, "pos_att_type=[['c2p'], 3]: only 'p2c|c2p' is supported"),
        ({"share_att_key": False}, "share_att_key=False"),
        ({"norm_rel_ebd": None}, "norm_rel_ebd is missing"),
        ({"position_biased_input": True}, "position_biased_input=True"),
        ({"position_buckets": -1}, "position_buckets=-1"),
        ({"position_buckets": 72}, "position_buckets 72 needs distances above 36, and max_relative_positions is 37"),
        ({"type_vocab_size": 2}, "type_vocab_size=2"),
        ({"embedding_size": 24}, "embedding_size=24 is not supported, only 36, as hidden_size is 36"),
        ({"pooler_hidden_act": "tanh"}, "pooler_hidden_act='tanh'"),
    ],
)
def test_what_debertas_may_not_say(tmp_path, changes, says):
    assert refusal(with_config(tmp_path, "deberta-v2", **changes)).startswith(says)


def test_distances_of_long_texts(tmp_path):
    """Of 512 tokens, with the ranges that published checkpoints have."""
    config = copy.deepcopy(tiny.torch_model("deberta-v2").config)
    config.num_hidden_layers, config.position_buckets, config.max_position_embeddings = 1, 256, 512
    theirs = tiny.with_random_vectors(transformers.DebertaV2ForSequenceClassification(config))
    theirs.save_pretrained(tmp_path)
    ours = TranskimmerForSequenceClassification.from_pretrained(tmp_path, dense=True)
    assert_parity(theirs, ours, make_batch(theirs, (512, 300), 512))
    distance = np.arange(-511, 512)
    expected = deberta.make_log_bucket_position(torch.from_numpy(-distance), 256, 512).numpy() + 256
    np.testing.assert_array_equal(distance_rows(512, 256, 512), expected)


def test_local_angles_of_null_are_those_of_all_layers(tmp_path):
    """In transformers 4; 5 cannot load it."""
    place = with_config(tmp_path, "modernbert", rope_parameters=None, global_rope_theta=9)
    values = json.loads((place / "config.json").read_text()) | {"local_rope_theta": None}
    assert config_file.parse(values, "here").architecture.local_rope_theta == 9.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers, but num_hidden_layers is 3"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types.0='chunked_attention'"),
        ({"num_attention_heads": 4}, "hidden_size 36 over num_attention_heads 4 is odd: heads are rotated by pairs"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling={'factor': 2.0, 'type': 'linear'}"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_parameters.full_attention.rope_type='yarn'",
        ),
        ({"rope_parameters": {"rope_theta": 1e4}}, "unknown field 'rope_parameters.rope_theta'"),
        ({"hidden_activation": "silu"}, "hidden_activation='silu'"),
        ({"classifier_activation": "relu"}, "classifier_activation='relu'"),
        ({"classifier_pooling": "max"}, "classifier_pooling='max'"),
    ],
)
def test_what_modernberts_may_not_say(tmp_path, changes, says):
    assert says in refusal(with_config(tmp_path, "modernbert", **changes))
