"""Language modelling by a recurrent network: vanilla, GRU or LSTM."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.families.layers import cross_entropy
from tasks.families.next_token import draw_length, window
from tasks.ranges import choice, log_uniform_int
from tasks.sources import Source


class VanillaRNN(hk.RNNCore):
    """h_t = tanh(W_i x_t + W_h h_{t-1} + b) (Elman 1990).

    Haiku's own has rectified units, which multiply their state at every token: at three times the default initial
    scale, by 1.9, or 10^8 over 32 tokens.
    """

    def __init__(self, width: int):
        super().__init__(name="vanilla_rnn")
        self._width = width

    def __call__(
        self, inputs: Float[Array, "B E"], prev_state: Float[Array, "B H"]
    ) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
        """The state, as output and as next state."""
        w_h = hk.Linear(self._width, with_bias=False, name="hidden_to_hidden")
        h = jnp.tanh(hk.Linear(self._width, name="input_to_hidden")(inputs) + w_h(prev_state))
        return h, h

    def initial_state(self, batch_size: int | None) -> Any:
        """Zeros (H,), or (B, H)."""
        return jnp.zeros((self._width,) if batch_size is None else (batch_size, self._width))


CORES: dict[str, Callable[[int], hk.RNNCore]] = {"vanilla": VanillaRNN, "gru": hk.GRU, "lstm": hk.LSTM}
"""Of a width H: Elman's network, Cho et al.'s gated unit (2014), Zaremba et al.'s LSTM (2014, forget bias 1)."""


@dataclass(frozen=True)
class RNNLM:
    """A recurrent network that predicts the next token, by softmax cross entropy in nats per token.

    Tokens are embedded in as many dimensions as the core is wide; a linear layer maps the core's output to logits.
    The state before the first token is learned, from zero.

    Attributes:
      core: a key of `CORES`.
      width: H.
      length: L, the tokens of each window that it reads.
      classes: V.
      depth: cores on top of each other, each reading the outputs of the one below.
    """

    core: str
    width: int
    length: int
    classes: int
    depth: int = 1

    @property
    def initial_loss(self) -> float:
        """ln V, the loss of a uniform guess; the vanilla core's outputs add a quarter of a nat at most."""
        return math.log(self.classes)

    @property
    def loss_cap(self) -> float:
        """1.5 ln V."""
        return 1.5 * math.log(self.classes)

    @property
    def dimensions(self) -> dict[str, int]:
        """The width of the cores, their number, and the length of a window."""
        return {"width": self.width, "depth": self.depth, "length": self.length}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"input": (B, M), "target": (B, M)}, M >= L."""
        del training
        tokens, target = window(batch, self.length)
        core = hk.DeepRNN([CORES[self.core](self.width) for _ in range(self.depth)])
        leaves, structure = jax.tree.flatten(core.initial_state(None))
        learned = [hk.get_parameter(f"initial_{i}", leaf.shape, init=jnp.zeros) for i, leaf in enumerate(leaves)]
        start = [jnp.broadcast_to(leaf[None], (tokens.shape[0], self.width)) for leaf in learned]
        x = hk.Embed(self.classes, self.width)(tokens.T)
        h, _ = hk.dynamic_unroll(core, x, jax.tree.unflatten(structure, start))
        logits = hk.Linear(self.classes)(h)
        return cross_entropy(logits.reshape(-1, self.classes), target.T.reshape(-1))


@dataclass(frozen=True)
class RNNLMs:
    """Recurrent networks of random size.

    Attributes:
      width: log-uniform.
      length: log-uniform; windows of the source must not be shorter.
      depth: cores on top of each other, log-uniform.
      cores: keys of `CORES`, equally likely.
    """

    width: tuple[int, int] = (8, 32)
    length: tuple[int, int] = (8, 32)
    depth: tuple[int, int] = (1, 1)
    cores: tuple[str, ...] = ("vanilla", "gru", "lstm")

    def draw(self, key: Key[Array, ""], source: Source) -> RNNLM:
        """Draw a network for the tokens of `source`."""
        key_core, key_width, key_length, key_depth = jax.random.split(key, 4)
        width = log_uniform_int(key_width, *self.width)
        length = draw_length(key_length, source, *self.length)
        depth = log_uniform_int(key_depth, *self.depth)
        return RNNLM(choice(key_core, self.cores), width, length, source.classes, depth)
