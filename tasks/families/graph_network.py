"""Finding communities in generated graphs, by a graph isomorphism network."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from tasks.data import Dataset, Split
from tasks.families.layers import ACTIVATIONS, layer_norm
from tasks.ranges import choice, log_uniform_int
from tasks.sources import Source


def communities(nodes: int = 16, kinds: int = 3, features: int = 4, seed: int = 0) -> Dataset:
    """Graphs of the contextual stochastic block model (Deshpande et al. 2018, arXiv:1807.09596).

    4,096 graphs to train on and 1,024 to validate, drawn independently, of n/2 to n nodes. A node is of one of C
    kinds, with equal odds, and so is its label; two nodes of one kind are joined with odds 0.7, others with odds
    0.1; a node's features are the centre of its kind plus standard normal noise. Centres, the same in all graphs, are
    orthogonal and of norm 1, so that a node alone tells little, and its neighbours much more.

    Fields, padded to n nodes: "x" (N, n, F) float32, "adjacency" (N, n, n) float32 of zeros and ones, symmetric with
    a zero diagonal; "label" (N, n) int32, "real" (N, n) float32, one for nodes, zero for padding.

    Args:
      nodes: n.
      kinds: C.
      features: F, at least C.
      seed: equal seeds give equal graphs.
    """
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(features, kinds)))[0].T

    def split(count: int) -> Split:
        real = np.arange(nodes)[None] < rng.integers(nodes // 2, nodes, (count, 1), endpoint=True)
        label = rng.integers(0, kinds, (count, nodes))
        odds = np.where(label[:, :, None] == label[:, None], 0.7, 0.1)
        upper = np.triu(rng.random((count, nodes, nodes)) < odds, 1) & real[:, :, None] & real[:, None]
        x = (centres[label] + rng.normal(size=(count, nodes, features))) * real[:, :, None]
        return Split(
            {
                "x": jnp.asarray(x, jnp.float32),
                "adjacency": jnp.asarray(upper | upper.swapaxes(1, 2), jnp.float32),
                "label": jnp.asarray(label * real, jnp.int32),
                "real": jnp.asarray(real, jnp.float32),
            }
        )

    return Dataset(split(4096), split(1024), f"communities_{nodes}x{kinds}", kinds)


@dataclass(frozen=True)
class GraphNetwork:
    """A graph isomorphism network (GIN, Xu et al. 2019, arXiv:1810.00826, eq. 4.1) that classifies the nodes of graphs.

        H_0 = X      M_l = (1 + epsilon_l) H_{l-1} + A H_{l-1}
        H_l = act(act(norm(M_l W_l + b_l)) W'_l + b'_l)      logits = H_L W + b

    by softmax cross entropy in nats, averaged over the nodes of all graphs of a batch. Layer norm stands where the
    paper has batch norm; epsilon_l is a learned number, from zero.

    Attributes:
      width: of the layers of perceptrons.
      depth: number of rounds of messages, L; a node's logits depend on the nodes within L steps.
      activation: a key of `ACTIVATIONS`.
      classes: C.
    """

    width: int
    depth: int
    activation: str
    classes: int

    @property
    def initial_loss(self) -> float:
        """ln C, the loss of a uniform guess; the logits' variance adds a few hundredths."""
        return math.log(self.classes)

    @property
    def loss_cap(self) -> float:
        """1.5 ln C."""
        return 1.5 * math.log(self.classes)

    @property
    def dimensions(self) -> dict[str, int]:
        """The width of the perceptrons, and the number of rounds of messages."""
        return {"width": self.width, "depth": self.depth}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of the fields of `communities`: x, adjacency, label and real, B graphs."""
        del training
        act = ACTIVATIONS[self.activation]
        h = batch["x"]
        for i in range(self.depth):
            epsilon = hk.get_parameter(f"epsilon_{i}", (), init=jnp.zeros)
            messages = (1 + epsilon) * h + batch["adjacency"] @ h
            hidden = act(layer_norm(hk.Linear(self.width)(messages)))
            h = act(hk.Linear(self.width)(hidden))
        logits = hk.Linear(self.classes)(h)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return (loss * batch["real"]).sum() / batch["real"].sum()


@dataclass(frozen=True)
class GraphNetworks:
    """Graph isomorphism networks of random shape.

    Attributes:
      width: log-uniform.
      depth: number of rounds of messages, log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely.
    """

    width: tuple[int, int] = (8, 32)
    depth: tuple[int, int] = (1, 3)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)

    def draw(self, key: Key[Array, ""], source: Source) -> GraphNetwork:
        """Draw a network for the labels of `source`."""
        key_width, key_depth, key_activation = jax.random.split(key, 3)
        width, depth = log_uniform_int(key_width, *self.width), log_uniform_int(key_depth, *self.depth)
        return GraphNetwork(width, depth, choice(key_activation, self.activations), source.classes)
