"""How transformers writes the checkpoints of each backbone: the names of the weights' parts.

One entry a backbone. `names.py` reads and writes by this table.
"""

import dataclasses
from collections.abc import Mapping

# Modules of a layer, by our names for them; and of the rest of the network.
_BERT = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "layer": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
    "pooler": "pooler.dense",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
}
_ROBERTA = _BERT | {"pooler": "classifier.dense", "classifier": "classifier.out_proj"}


@dataclasses.dataclass(frozen=True)
class CheckpointFormat:
    """The names of one backbone.

    class_prefix: of transformers' classes, 'Bert' of BertForSequenceClassification.
    prefix: of the encoder's tensors in models with a head.
    modules: where tensors lie, by our names of the modules. Where there is a 'query_key_value', one tensor holds all three.
    pooler_in_encoder: whether the classifier's first product has the encoder's prefix.
    pads_first: whether positions start behind that of the padding, so that the padding's id says where.
    position_offset: where they start otherwise.
    pad_token_id: the usual one, for a model that is saved without a tokenizer.
    ignored: what tensors of other tasks' heads begin with.
    """

    class_prefix: str
    prefix: str
    modules: Mapping[str, str]
    pooler_in_encoder: bool = False
    pads_first: bool = False
    position_offset: int = 0
    pad_token_id: int = 0
    ignored: tuple[str, ...] = ("cls.",)


_ROBERTA_FORMAT = CheckpointFormat("Roberta", "roberta.", _ROBERTA, pads_first=True, pad_token_id=1, ignored=("lm_head.", "pooler."))

FORMATS = {
    "bert": CheckpointFormat("Bert", "bert.", _BERT, pooler_in_encoder=True),
    "electra": CheckpointFormat(
        "Electra",
        "electra.",
        {**_BERT, "embedding_projection": "embeddings_project", "pooler": "classifier.dense", "classifier": "classifier.out_proj"},
        ignored=("discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
    ),
    "roberta": _ROBERTA_FORMAT,
    "xlm-roberta": dataclasses.replace(_ROBERTA_FORMAT, class_prefix="XLMRoberta"),
    "camembert": dataclasses.replace(_ROBERTA_FORMAT, class_prefix="Camembert"),
    "distilbert": CheckpointFormat(
        "DistilBert",
        "distilbert.",
        {
            **_BERT,
            "layer": "transformer.layer",
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "out": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "up": "ffn.lin1",
            "down": "ffn.lin2",
            "output_norm": "output_layer_norm",
            "pooler": "pre_classifier",
        },
        ignored=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    ),
    "mpnet": CheckpointFormat(
        "MPNet",
        "mpnet.",
        {
            **_ROBERTA,
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "out": "attention.attn.o",
            "attention_norm": "attention.LayerNorm",
            "relative_bias": "encoder.relative_attention_bias",
        },
        position_offset=2,
        pad_token_id=1,
        ignored=("lm_head.", "pooler."),
    ),
    "deberta-v2": CheckpointFormat(
        "DebertaV2",
        "deberta.",
        {
            **_BERT,
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
            "relative_states": "encoder.rel_embeddings",
            "relative_states_norm": "encoder.LayerNorm",
        },
        # Of its training, and tables that some files have and no model reads: of positions, and of what `weight` adds to the generator's.
        ignored=("cls.", "lm_predictions.", "mask_predictions.", "embeddings.position_embeddings.", "embeddings.word_embeddings._weight"),
    ),
    "modernbert": CheckpointFormat(
        "ModernBert",
        "model.",
        {
            "word": "embeddings.tok_embeddings",
            "embedding_norm": "embeddings.norm",
            "layer": "layers",
            "query_key_value": "attn.Wqkv",
            "out": "attn.Wo",
            "attention_norm": "attn_norm",
            "up": "mlp.Wi",
            "down": "mlp.Wo",
            "output_norm": "mlp_norm",
            "final_norm": "final_norm",
            "pooler": "head.dense",
            "pooler_norm": "head.norm",
            "classifier": "classifier",
            "qa_outputs": "classifier",
        },
        pad_token_id=50283,
        ignored=("decoder.",),
    ),
}
