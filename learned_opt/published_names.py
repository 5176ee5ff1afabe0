"""How other projects name the weights of the architectures that we have as rules.

haiku's names ("rnn_params/rnn/linear/w") are those of google/learned_optimization, amoudgl/celo and amoudgl/celo2; the
names with dots are those of the PyTorch modules of Belilovsky-Lab/pylo.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Architecture(NamedTuple):
    """How published weights of one architecture are recognised and named."""

    rules: tuple[str, ...]
    """Rules with these weights, the usual one first."""
    belongs: Callable[[Mapping[str, tuple[int, ...]]], bool]
    """Whether a file with tensors of these names and shapes is of it."""
    sizes: Mapping[str, tuple[str, int]]
    """Setting of the rule -> a published tensor and the axis that shows it."""
    names: Mapping[str, str]
    """Leaf of our weights -> published tensor. In a leaf "*" is any layer and "-1" the last; in a tensor {k} is that
    layer and {j} the one before, and "*" the `PIECES`, joined along their inputs."""
    transposed: bool = False
    """Matrices are [..., outputs, inputs], as torch has them."""
    fixed: Mapping[str, tuple[float, ...]] = {}
    """Leaves that the project keeps in its code."""
    unused: str = "(?!)"
    """Pattern of published tensors that nothing reads."""
    incomplete: str = "the file is incomplete, or of another version of its project"
    """What to think of a tensor that is missing."""


PIECES = 14
"""Arrays that published first layers are cut into, one for each group of input channels."""


def _table(text: str) -> dict[str, str]:
    """Lines "our leaf, published tensor"; "?" on both sides stands for w and b."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return {ours.replace("?", x): theirs.replace("?", x) for ours, theirs in rows for x in "wb"}


_SCHEDULER = """
    scheduler/initial/hidden  lstm_init_state/hidden
    scheduler/initial/cell    lstm_init_state/cell
    scheduler/mix_1/?         rnn_params/linear_1/?
    scheduler/mix_2/?         rnn_params/linear_2/?
    scheduler/lstm/?          rnn_params/rnn/linear/?
    scheduler/step_size/?     rnn_params/step_size/?
"""
_DEAD_LINEAR = "rnn_params/linear/[wb]"

_VELO = Architecture(
    ("velo",),
    lambda shapes: "rnn_params/rnn_to_controls/w" in shapes and "ff_mod_stack/~/b0" in shapes,
    {
        "lstm_units": ("rnn_params/step_size/w", 0),
        "bank": ("ff_mod_stack/~/b0", 0),
        "hidden": ("ff_mod_stack/~/b0", -1),
    },
    _table(
        _SCHEDULER
        + """
        controls/?  rnn_params/rnn_to_controls/?
        bank/0/w    ff_mod_stack/~/w0__*
        bank/*/?    ff_mod_stack/~/?{k}
        """
    ),
    unused=_DEAD_LINEAR,
)
_CELO = _VELO._replace(
    rules=("celo",),
    # The same names; its scheduler has no inputs that differ between tensors.
    belongs=lambda shapes: _VELO.belongs(shapes) and shapes.get("rnn_params/linear_1/w", ())[:1] == (18,),
)

ARCHITECTURES = (
    _CELO,
    _VELO,
    Architecture(
        ("celo_adam",),
        lambda shapes: "rnn_params/step_size/w" in shapes,
        {"lstm_units": ("rnn_params/step_size/w", 0)},
        _table(_SCHEDULER),
        unused=_DEAD_LINEAR,
    ),
    Architecture(
        ("celo2", "celo2_base"),
        lambda shapes: "ff_mod_stack/~/b0" in shapes,
        {"hidden": ("ff_mod_stack/~/b0", -1)},
        _table(
            """
            layers/0/w  ff_mod_stack/~/w0__*
            layers/*/?  ff_mod_stack/~/?{k}
            """
        ),
    ),
    Architecture(
        ("small_fc",),
        lambda shapes: "nn/~/b0" in shapes,
        {"hidden": ("nn/~/b0", -1)},
        _table(
            """
            momentum_decays  momentum_decays
            rms_decays       rms_decays
            factored_decays  adafactor_decays
            layers/*/?       nn/~/?{k}
            """
        ),
    ),
    Architecture(
        ("mlp",),
        lambda shapes: "mlp/~/linear_0/b" in shapes,
        {"hidden": ("mlp/~/linear_0/b", -1)},
        _table("layers/*/?  mlp/~/linear_{k}/?"),
    ),
    Architecture(
        ("rnn_mlp",),
        lambda shapes: "ffmod_params/mlp/~/linear_0/b" in shapes,
        {"units": ("lstm_init_state/hidden", -1), "hidden": ("ffmod_params/mlp/~/linear_0/b", -1)},
        _table(
            """
            from_lstm          initial_from_lstm
            from_mlp           initial_from_mlp
            lstm_state/hidden  lstm_init_state/hidden
            lstm_state/cell    lstm_init_state/cell
            lstm/?             rnn_params/rnn/linear/?
            to_lstm/?          rnn_to_in_params/rnn_to_in/?
            to_mlp/?           rnn_to_ff_params/rnn_to_ff/?
            layers/*/?         ffmod_params/mlp/~/linear_{k}/?
            """
        ),
    ),
    Architecture(
        ("nn_adam",),
        lambda shapes: "per_layer_lr" in shapes,
        {"units": ("lstm_init_state/hidden", -1)},
        _table(
            """
            hyper/learning_rate  per_layer_lr
            hyper/beta1          per_layer_beta1
            hyper/beta2          per_layer_beta2
            hyper/epsilon        per_layer_epsilon
            lstm_state/hidden    lstm_init_state/hidden
            lstm_state/cell      lstm_init_state/cell
            lstm/?               rnn_params/rnn/linear/?
            controls/?           rnn_to_controls_params/rnn_to_controls/?
            """
        ),
    ),
    Architecture(
        ("velo",),
        lambda shapes: "mix_layer2.weight" in shapes or "input_weights_" in shapes,
        {"lstm_units": ("step_size.weight", -1), "bank": ("input_bias_", 0), "hidden": ("input_bias_", -1)},
        _table(
            """
            scheduler/initial/hidden  lstm_init_state.0
            scheduler/initial/cell    lstm_init_state.1
            scheduler/mix_1/w         mix_layer2.weight
            scheduler/mix_1/b         mix_layer2.bias
            scheduler/mix_2/w         final_mix_layer.weight
            scheduler/mix_2/b         final_mix_layer.bias
            scheduler/lstm/w          lstm.linear.weight
            scheduler/lstm/b          lstm.linear.bias
            scheduler/step_size/w     step_size.weight
            scheduler/step_size/b     step_size.bias
            controls/w                rnn_to_controls.weight
            controls/b                rnn_to_controls.bias
            bank/0/w                  input_weights_
            bank/0/b                  input_bias_
            bank/*/w                  hidden_weights_.{j}
            bank/*/b                  hidden_bias_.{j}
            bank/-1/w                 output_weights_
            bank/-1/b                 output_bias_
            """
        ),
        transposed=True,
        # Without a last underscore: where the module keeps the network that it mixed last.
        unused=r"mix_layer1\.(weight|bias)|(input|output)_(weights|bias)|hidden_(weights|bias)\.\d+",
        incomplete="the model is two files, VeLO_RNN and VeLO_MLP, give the folder that holds both",
    ),
    Architecture(
        ("small_fc",),
        lambda shapes: "network.input.weight" in shapes,
        {"hidden": ("network.input.bias", -1)},
        _table(
            """
            layers/0/w   network.input.weight
            layers/0/b   network.input.bias
            layers/*/w   network.linear_{j}.weight
            layers/*/b   network.linear_{j}.bias
            layers/-1/w  network.output.weight
            layers/-1/b  network.output.bias
            """
        ),
        transposed=True,
        fixed={
            "momentum_decays": (0.15216392, 0.14245212, 0.06812963),
            "rms_decays": (0.01079706,),
            "factored_decays": (0.18621896, -0.10864615, -0.06185547),
        },
    ),
    Architecture(
        ("celo2", "celo2_base"),
        lambda shapes: "w0.0" in shapes and "b0" in shapes,
        {"hidden": ("b0", -1)},
        _table(
            """
            layers/0/w  w0.*
            layers/0/b  b0
            layers/*/w  dense_w.{j}
            layers/*/b  dense_b.{j}
            """
        ),
    ),
)
"""The first one that a file belongs to is taken."""
