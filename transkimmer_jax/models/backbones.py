"""What kinds of encoders there are, and in what they differ. What varies within a kind is a field of `Architecture`.

Names are those of transformers' `model_type`. How a kind's checkpoints call their parts is the table in `weights/backbones.py`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The parts of an encoder.

    token_types: whether a token's segment is added to its embedding.
    relative_bias: whether scores have a bias by the distance of query and key, one table for all layers.
    pooled_by: the activation of the sequence classifier's first product.
    """

    token_types: bool = True
    relative_bias: bool = False
    pooled_by: str = "tanh"


BACKBONES = {
    "bert": Backbone(),  # Devlin et al., 2019
    "roberta": Backbone(),  # Liu et al., 2019; positions start behind that of the padding, see `Architecture.position_offset`
    "xlm-roberta": Backbone(),  # Conneau et al., 2020
    "distilbert": Backbone(token_types=False, pooled_by="relu"),  # Sanh et al., 2019
    "mpnet": Backbone(token_types=False, relative_bias=True),  # Song et al., 2020
}
