"""What kinds of encoders there are, and in what they differ. What varies within a kind is a field of `Architecture`.

Names are those of transformers' `model_type`. How a kind's checkpoints call their parts is the table in `checkpoints/backbones.py`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The parts of an encoder.

    rotary: whether queries and keys are rotated by their positions, where others add a table of positions to the embeddings.
    relative_bias: whether scores have a bias by the distance of query and key, one table for all layers.
    disentangled: whether queries also meet what a layer makes keys of distances, and keys what it makes queries of them; such a backbone
      adds no table of positions to the embeddings either.
    pre_norm: whether norms stand before attention and feed-forward, and one behind the last layer; else they stand behind both.
    gated: whether the feed-forward part has a second product by which the activated first is multiplied.
    pooled_by: the activation of the sequence classifier's first product.
    prediction_head: whether every classifier, of texts or tokens, has that product first, and a norm behind its activation.
    """

    rotary: bool = False
    relative_bias: bool = False
    disentangled: bool = False
    pre_norm: bool = False
    gated: bool = False
    pooled_by: str = "tanh"
    prediction_head: bool = False

    @property
    def position_table(self) -> bool:
        """Whether embeddings have a part by position."""
        return not self.rotary and not self.disentangled


BACKBONES = {
    "bert": Backbone(),  # Devlin et al., 2019
    "electra": Backbone(pooled_by="gelu"),  # Clark et al., 2020; tables may be narrower than states, see `Architecture.embedding_size`
    "roberta": Backbone(),  # Liu et al., 2019; positions start behind that of the padding, see `Architecture.position_offset`
    "xlm-roberta": Backbone(),  # Conneau et al., 2020
    "camembert": Backbone(),  # Martin et al., 2020
    "distilbert": Backbone(pooled_by="relu"),  # Sanh et al., 2019
    "mpnet": Backbone(relative_bias=True),  # Song et al., 2020
    "deberta-v2": Backbone(disentangled=True, pooled_by="gelu"),  # He et al., 2021; of the third version too
    # Warner et al., 2024; some of its layers see only what is near, see `Architecture.local_layers`
    "modernbert": Backbone(rotary=True, pre_norm=True, gated=True, pooled_by="gelu", prediction_head=True),
}
