"""Training a small learned optimizer: the weights θ of an update rule are trained by backpropagation through training.

From fresh weights w_0 of a perceptron with one hidden layer of tanh units that classifies images, on batches b_0 ..
b_{K-1}, with the rule U of θ and its state s,

    g_k = dℓ(w_k; b_k)/dw        w_{k+1}, s_{k+1} = w_k - U_θ(g_k, s_k)        L(θ) = 1/K sum_k ℓ(w_k; b_k),

ℓ the softmax cross entropy, and dL/dθ goes through the g_k. With ĝ = g / sqrt(mean over the array of g² + 1e-8) and
momenta m_β = β m_β + (1 - β) g over k, normalised alike, the two rules are

    "mlp":  a, d = MLP_θ(ĝ, m̂_0.5, m̂_0.9, w),    U = 0.005 exp(3 tanh a) tanh d     for each weight alone
    "adam": U = 0.005 exp(3 tanh θ_0) m̄ / sqrt(v̄ + 1e-6), the momenta of decays sigmoid(ln 9 + 2 tanh θ_1)
            and sigmoid(ln 99 + 2 tanh θ_2), corrected at the start; a column of θ for each array of w

Updates are bounded, whatever θ is, and so are w_k and L; dL/dθ stays finite, but may be large: unrolled training is
chaotic.

Sources: unrolled training of update rules, Andrychowicz et al. 2016 (arXiv:1606.04474); a perceptron on the gradient
and momenta of a weight, with magnitude and direction as outputs, Metz et al. 2019 (arXiv:1810.10180), there unbounded.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from tasks.ranges import choice, log_uniform_int
from tasks.sources import Source

RULES = ("mlp", "adam")
DECAYS = (0.5, 0.9)


@dataclass(frozen=True)
class LearnedOptimizer:
    """An update rule, trained on whole runs of K steps on batches of b images.

    A batch of n examples is n // (K b) runs, and the rest is left out; of fewer, one run on batches of n // K.
    Each run starts from weights of its own.

    Attributes:
      rule: one of `RULES`.
      hidden: units of the hidden layer of rule "mlp"; "adam" has none.
      unroll: K.
      inner_batch: b.
      inner_width: hidden units of the perceptron that the rule trains.
      classes: C.
    """

    rule: str
    hidden: int
    unroll: int
    inner_batch: int
    inner_width: int
    classes: int

    @property
    def initial_loss(self) -> float:
        """ln C: an untrained rule "mlp" hardly trains; "adam" does better from the start."""
        return math.log(self.classes)

    @property
    def loss_cap(self) -> float:
        """1.5 ln C."""
        return 1.5 * math.log(self.classes)

    @property
    def dimensions(self) -> dict[str, int]:
        """The hidden units of a rule that has them, and K."""
        return ({"width": self.hidden} if self.hidden else {}) | {"length": self.unroll}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Mean of L(θ) over the runs of {"image": (n, ...), "label": (n,)}."""
        del training
        n, K = batch["label"].shape[0], self.unroll
        b = max(1, min(self.inner_batch, n // K))
        runs = max(1, n // (K * b))
        image = batch["image"].reshape(n, -1)
        rows = jnp.arange(runs * K * b) % n  # fewer than K examples are seen again and again
        image, label = image[rows].reshape(runs, K, b, -1), batch["label"][rows].reshape(runs, K, b)
        pixels = image.shape[-1]
        shapes = [(pixels, self.inner_width), (self.inner_width,), (self.inner_width, self.classes), (self.classes,)]
        theta = self._rule_weights(len(shapes))
        w = _perceptrons(hk.next_rng_key(), runs, shapes)
        return jax.vmap(self._unrolled, (None, 0, 0, 0))(theta, w, image, label).mean()

    def _rule_weights(self, arrays: int) -> dict[str, Array]:
        zeros, normal = hk.initializers.Constant(0), hk.initializers.VarianceScaling()
        if self.rule == "adam":
            return {"rates_and_decays": hk.get_parameter("rates_and_decays", (3, arrays), init=normal)}
        features, h = len(DECAYS) + 2, self.hidden
        return {
            "w_hidden": hk.get_parameter("w_hidden", (features, h), init=normal),
            "b_hidden": hk.get_parameter("b_hidden", (h,), init=zeros),
            "w_out": hk.get_parameter("w_out", (h, 2), init=normal),
            "b_out": hk.get_parameter("b_out", (2,), init=zeros),
        }

    def _unrolled(self, theta: dict[str, Array], w: list[Array], image: Array, label: Array) -> Float[Array, ""]:
        """L(θ) of one run on (K, b, pixels) and (K, b)."""
        update = {"mlp": _mlp_update, "adam": _adam_update}[self.rule]

        def step(carry: tuple[list[Array], Any], batch: tuple[Array, ...]) -> tuple[tuple[list[Array], Any], Array]:
            w, state = carry
            loss, g = jax.value_and_grad(_perceptron_loss)(w, *batch[1:])
            u, state = update(theta, w, g, state, batch[0])
            return ([w - u for w, u in zip(w, u, strict=True)], state), loss

        zeros = [jnp.zeros_like(x) for x in w]
        steps = jnp.arange(1, self.unroll + 1, dtype=jnp.float32)
        _, losses = jax.lax.scan(step, (w, (zeros, zeros)), (steps, image, label))
        return losses.mean()


def _perceptrons(key: Key[Array, ""], runs: int, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Weights (runs, ...) of deviation 1/sqrt(fan-in), from one draw, and biases of zero."""
    sizes = [math.prod(shape) if len(shape) == 2 else 0 for shape in shapes]
    parts = jnp.split(jax.random.normal(key, (runs, sum(sizes))), list(itertools.accumulate(sizes))[:-1], axis=1)
    start = lambda part, s: part.reshape(runs, *s) / math.sqrt(s[0]) if part.size else jnp.zeros((runs, *s))
    return [start(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def _perceptron_loss(w: list[Array], image: Array, label: Array) -> Float[Array, ""]:
    logits = jnp.tanh(image @ w[0] + w[1][None]) @ w[2] + w[3][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), label).mean()


def _mlp_update(
    theta: dict[str, Array], w: list[Array], g: list[Array], momenta: Any, k: Array
) -> tuple[list[Array], Any]:
    del k
    momenta = tuple(
        [β * m + (1 - β) * g for m, g in zip(ms, g, strict=True)] for β, ms in zip(DECAYS, momenta, strict=True)
    )
    normalised = lambda x: x * jax.lax.rsqrt((x**2).mean() + 1e-8)
    columns = [*([normalised(x) for x in xs] for xs in (g, *momenta)), w]
    # One product for all arrays: (weights, features).
    features = jnp.stack([jnp.concatenate([x.reshape(-1) for x in xs]) for xs in columns], axis=-1)
    hidden = jnp.tanh(features @ theta["w_hidden"] + theta["b_hidden"][None])
    a, d = (hidden @ theta["w_out"] + theta["b_out"][None]).T
    u = 0.005 * jnp.exp(3 * jnp.tanh(a)) * jnp.tanh(d)
    parts = jnp.split(u, list(itertools.accumulate(x.size for x in w))[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, w, strict=True)], momenta


def _adam_update(
    theta: dict[str, Array], w: list[Array], g: list[Array], moments: Any, k: Array
) -> tuple[list[Array], Any]:
    del w
    θ = theta["rates_and_decays"].astype(jnp.float32)
    rate = 0.005 * jnp.exp(3 * jnp.tanh(θ[0]))
    β1 = jax.nn.sigmoid(math.log(9) + 2 * jnp.tanh(θ[1]))
    β2 = jax.nn.sigmoid(math.log(99) + 2 * jnp.tanh(θ[2]))
    m, v = moments
    m = [β1[i] * m[i] + (1 - β1[i]) * g[i] for i in range(len(g))]
    v = [β2[i] * v[i] + (1 - β2[i]) * g[i] ** 2 for i in range(len(g))]
    corrected = lambda i: m[i] / (1 - β1[i] ** k) * jax.lax.rsqrt(v[i] / (1 - β2[i] ** k) + 1e-6)
    return [rate[i] * corrected(i) for i in range(len(g))], (m, v)


@dataclass(frozen=True)
class LearnedOptimizers:
    """Update rules of random kind and size; with batches of 512 examples, several runs a step for most of them.

    Attributes:
      rules: of `RULES`, equally likely.
      width: hidden units of the rule, log-uniform.
      length: K, log-uniform.
      inner_batch: b, log-uniform.
      inner_width: hidden units of the perceptron that the rule trains, log-uniform.
    """

    rules: tuple[str, ...] = RULES
    width: tuple[int, int] = (4, 32)
    length: tuple[int, int] = (5, 20)
    inner_batch: tuple[int, int] = (4, 32)
    inner_width: tuple[int, int] = (4, 16)

    def draw(self, key: Key[Array, ""], source: Source) -> LearnedOptimizer:
        """Draw an update rule, which trains on the images of `source`."""
        key_rule, *keys = jax.random.split(key, 5)
        sizes = (self.width, self.length, self.inner_batch, self.inner_width)
        drawn = [log_uniform_int(k, *size) for k, size in zip(keys, sizes, strict=True)]
        rule = choice(key_rule, self.rules)
        hidden, unroll, inner_batch, inner_width = drawn
        return LearnedOptimizer(rule, hidden if rule == "mlp" else 0, unroll, inner_batch, inner_width, source.classes)
