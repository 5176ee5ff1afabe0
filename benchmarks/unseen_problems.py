"""Small problems from which no unit of a release was found: whether it holds elsewhere.

    python benchmarks/small_problems.py --unseen

Models as people write them, on raw units, with sums for means, with targets that move: see `small_problems`.
Three more are in `fitted_problems`.
"""

from collections.abc import Callable
from typing import Any

import fitted_problems
import jax
import jax.numpy as jnp
import numpy as np
from small_problems import Problem, cross_entropy, layers, perceptron, rows, tanh_net, zeros


def normal(*shape: int, scale: float = 1.0) -> Callable[[Any], Any]:
    """An initialisation."""
    return lambda key: scale * jax.random.normal(key, shape)


def problems() -> dict[str, Problem]:
    """All of them."""
    return {**_tables(), **_science(), **_networks(), **fitted_problems.problems()}


def _tables() -> dict[str, Problem]:
    """Linear models and factorisations."""
    from sklearn.datasets import load_breast_cancer

    keys = jax.random.split(jax.random.key(1234), 9)
    cancer: Any = load_breast_cancer()
    raw, malignant = jnp.asarray(cancer.data, jnp.float32), jnp.asarray(cancer.target)
    scaled = (raw - raw.mean(0)[None]) / raw.std(0)[None]
    units, offsets = jnp.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0]), jnp.array([0.0, 5.0, 20.0, 100.0, 50.0, 1000.0])
    x = jax.random.normal(keys[0], (400, 6)) * units[None] + offsets[None]
    y = x @ jnp.array([5.0, -3.0, 1.0, 0.5, 0.2, -0.1]) + 50.0 + jax.random.normal(keys[1], (400,))
    exposure = jax.random.normal(keys[2], (1000, 8))
    rate = jnp.exp(exposure @ (0.3 * jax.random.normal(keys[3], (8,))) + 3.0)
    counts = jnp.asarray(np.random.default_rng(0).poisson(np.asarray(rate)), jnp.float32)
    tastes = jax.random.normal(keys[4], (80, 3)) @ jax.random.normal(keys[5], (60, 3)).T
    ratings = jnp.clip(3.5 + 0.7 * tastes, 1.0, 5.0)
    inputs = jax.random.normal(keys[6], (1000, 10))
    curve = jnp.sin(2.0 * inputs[:, 0]) + 0.3 * inputs[:, 1]
    words, topics = _documents()

    def linear(p: Any, k: Any) -> Any:
        features, targets = rows(k, x, y)
        return jnp.mean((features @ p["w"] + p["b"] - targets) ** 2)

    def poisson(p: Any, k: Any) -> Any:
        features, seen = rows(k, exposure, counts)
        log_rate = features @ p["w"] + p["b"]
        return jnp.mean(jnp.exp(log_rate) - seen * log_rate)

    def svm(p: Any, k: Any) -> Any:
        features, labels = rows(k, scaled, malignant)
        margin = (2 * labels - 1) * (features @ p["w"] + p["b"])
        return jnp.mean(jax.nn.relu(1 - margin)) + 1e-3 * jnp.sum(p["w"] ** 2)

    def bag_of_words(p: Any, k: Any) -> Any:
        features, labels = rows(k, words, topics)
        return cross_entropy(features @ p["w"] + p["b"], labels)

    def completion(p: Any, k: Any) -> Any:
        i, j = (jax.random.randint(key, (128,), 0, n) for key, n in zip(jax.random.split(k), (80, 60), strict=True))
        rated = p["c"] + p["of_user"][i] + p["of_item"][j] + jnp.sum(p["u"][i] * p["v"][j], 1)
        return jnp.mean((rated - ratings[i, j]) ** 2)

    def one_row(p: Any, k: Any) -> Any:
        i = jax.random.randint(k, (), 0, 1000)
        return (inputs[i] @ p["w"] + p["b"] - curve[i]) ** 2

    def tiny(p: Any, k: Any) -> Any:
        """Targets of 1e-4 in units of them, so outputs are 10,000 times too large at the start."""
        features, targets = rows(k, inputs, 1e-4 * curve)
        return 1e8 * jnp.mean((perceptron(p, features)[:, 0] - targets) ** 2)

    def completion_init(k: Any) -> Any:
        factors = {"u": normal(80, 6, scale=0.1)(k), "v": normal(60, 6, scale=0.1)(jax.random.fold_in(k, 1))}
        return {**factors, "of_user": jnp.zeros(80), "of_item": jnp.zeros(60), "c": jnp.zeros(())}

    return {
        "linear, raw units": Problem(zeros(w=(6,), b=()), linear),
        "poisson": Problem(zeros(w=(8,), b=()), poisson),
        "support vectors": Problem(zeros(w=(30,), b=()), svm),
        "bag of words": Problem(zeros(w=(300, 4), b=(1, 4)), bag_of_words),
        "ratings": Problem(completion_init, completion),
        "batch of one": Problem(zeros(w=(10,), b=()), one_row),
        "tiny targets": Problem(lambda k: layers(k, 10, 64, 64, 1), tiny),
    }


def _documents() -> tuple[Any, Any]:
    """600 sets of 20 of 300 words, by Zipf's law, and their topics, each of which has 20 words of its own."""
    rng = np.random.default_rng(1)
    chance, topics = 1.0 / np.arange(1, 301) ** 1.1, rng.integers(0, 4, 600)
    words = np.zeros((600, 300), np.float32)
    for row, topic in zip(words, topics, strict=True):
        weights = chance.copy()
        weights[topic * 60 + 40 : topic * 60 + 60] *= 8
        row[rng.choice(300, 20, p=weights / weights.sum())] = 1
    return jnp.asarray(words), jnp.asarray(topics)


def _science() -> dict[str, Problem]:
    """A few numbers to fit."""
    keys = jax.random.split(jax.random.key(1235), 6)
    centres = 3.0 * jax.random.normal(keys[0], (5, 2))
    noise = 0.3 * jax.random.normal(keys[2], (1000, 2))
    cloud = centres[jax.random.randint(keys[1], (1000,), 0, 5)] + noise
    places = jax.random.normal(keys[3], (50, 4))
    heights = jnp.sin(2.0 * places[:, 0]) + 0.5 * places[:, 1] + 0.05 * jax.random.normal(keys[4], (50,))
    pairs = jnp.triu_indices(8, 1)

    def mixture(p: Any, k: Any) -> Any:
        (x,) = rows(k, cloud)
        squares = jnp.sum((x[:, None] - p["mean"][None]) ** 2, -1) * jnp.exp(-2.0 * p["scale"])[None]
        return -jnp.mean(
            jax.nn.logsumexp((jax.nn.log_softmax(p["logits"]) - 2.0 * p["scale"])[None] - 0.5 * squares, 1)
        )

    def populations(p: Any) -> Any:
        """Lotka and Volterra's equations, by the midpoint rule."""
        a, b, c, d = jnp.exp(p["rates"])
        slope = lambda z: jnp.array([a * z[0] - b * z[0] * z[1], d * z[0] * z[1] - c * z[1]])

        def step(z: Any, _: Any) -> Any:
            z = z + 0.05 * slope(z + 0.025 * slope(z))
            return z, z

        return jax.lax.scan(step, jnp.exp(p["start"]), None, 100)[1]

    seen = populations({"rates": jnp.array([0.1, 0.2, 0.3, -0.2]), "start": jnp.array([0.3, -0.2])})

    def cluster(p: Any, k: Any) -> Any:
        """Lennard-Jones' energy of eight atoms."""
        gaps = p["x"][:, None] - p["x"][None]
        power = 1.0 / (jnp.sum(gaps * gaps, -1)[pairs] + 0.01) ** 3
        return jnp.sum(power * power - 2.0 * power)

    def gaussian_process(p: Any, k: Any) -> Any:
        """Negative log likelihood of all points, a length for each of four inputs."""
        gaps = (places[:, None] - places[None]) * jnp.exp(-p["length"])[None, None]
        kernel = jnp.exp(p["size"]) * jnp.exp(-0.5 * jnp.sum(gaps * gaps, -1))
        factor = jnp.linalg.cholesky(kernel + (jnp.exp(p["noise"]) + 1e-4) * jnp.eye(50))
        alpha = jax.scipy.linalg.cho_solve((factor, True), heights)
        return 0.5 * heights @ alpha + jnp.sum(jnp.log(jnp.diag(factor)))

    return {
        "mixture of gaussians": Problem(
            lambda k: {"mean": 2.0 * jax.random.normal(k, (8, 2)), "scale": jnp.zeros(8), "logits": jnp.zeros(8)},
            mixture,
        ),
        "lotka and volterra": Problem(
            zeros(rates=(4,), start=(2,)), lambda p, k: jnp.mean((populations(p) - seen) ** 2)
        ),
        "cluster of atoms": Problem(lambda k: {"x": normal(8, 3)(k)}, cluster),
        "gaussian process, summed": Problem(zeros(length=(4,), size=(), noise=()), gaussian_process, 500),
    }


def _networks() -> dict[str, Problem]:
    """Perceptrons on raw data, a recurrent net, a flow, and values learned from themselves."""
    from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

    def table(load: Callable[[], Any]) -> tuple[Any, Any]:
        data: Any = load()
        return jnp.asarray(data.data, jnp.float32), jnp.asarray(data.target)

    cancer, iris, digits, wine = map(table, (load_breast_cancer, load_iris, load_digits, load_wine))
    rng = np.random.default_rng(2)
    angle, side = np.pi * rng.random(1000), np.arange(1000) % 2
    moons = np.stack([np.cos(angle) * (1 - 2 * side) + side, np.sin(angle) * (1 - 2 * side) + 0.5 * side], 1)
    moons = jnp.asarray(moons + 0.05 * rng.standard_normal((1000, 2)), jnp.float32)
    states, after = jax.random.normal(jax.random.key(5), (200, 6)), jax.random.permutation(jax.random.key(6), 200)
    gain = jnp.tanh(states[:, 0])
    values = jnp.linalg.solve(jnp.eye(200) - 0.9 * jax.nn.one_hot(after, 200), gain)

    def on(data: tuple[Any, Any], model: Callable[[Any, Any], Any], factor: float = 1.0) -> Callable[[Any, Any], Any]:
        def loss(p: Any, k: Any) -> Any:
            features, labels = rows(k, *data)
            return factor * cross_entropy(model(p, features), labels)

        return loss

    def batch_norm(p: Any, x: Any) -> Any:
        for (w, b), scale in zip(p["layers"][:-1], p["scales"], strict=True):
            h = x @ w
            h = (h - h.mean(0)[None]) * jax.lax.rsqrt(h.var(0) + 1e-5)[None]
            x = jax.nn.relu(scale * h + b)
        return x @ p["layers"][-1][0] + p["layers"][-1][1]

    def running_sum(p: Any, k: Any) -> Any:
        x = jax.random.normal(k, (32, 20))

        def step(h: Any, now: Any) -> Any:
            h = jnp.tanh(h @ p["h"] + now[:, None] * p["in"] + p["b"])
            return h, (h @ p["out"])[:, 0]

        return jnp.mean((jax.lax.scan(step, jnp.zeros((32, 24)), x.T)[1].T - jnp.cumsum(x, 1) / 4.0) ** 2)

    def flow(p: Any, k: Any) -> Any:
        """Affine couplings; a negative log likelihood."""
        (x,) = rows(k, moons)
        volume = 0.0
        for i, net in enumerate(p):
            kept, moved = (x[:, i % 2 : i % 2 + 1], x[:, 1 - i % 2 : 2 - i % 2])
            made = tanh_net(net, kept)
            scale = 2.0 * jnp.tanh(made[:, :1])
            moved, volume = moved * jnp.exp(scale) + made[:, 1:], volume + scale[:, 0]
            x = jnp.concatenate([kept, moved] if i % 2 == 0 else [moved, kept], 1)
        return jnp.mean(0.5 * jnp.sum(x * x, 1) - volume)

    def temporal_difference(p: Any, k: Any) -> Any:
        i = jax.random.randint(k, (64,), 0, 200)
        target = jax.lax.stop_gradient(gain[i] + 0.9 * perceptron(p, states[after[i]])[:, 0])
        return jnp.mean((perceptron(p, states[i])[:, 0] - target) ** 2)

    def recurrent(k: Any) -> Any:
        weights = {"h": normal(24, 24, scale=0.2)(k), "in": normal(1, 24)(jax.random.fold_in(k, 1))}
        return {**weights, "b": jnp.zeros((1, 24)), "out": normal(24, 1, scale=0.2)(jax.random.fold_in(k, 2))}

    return {
        "perceptron, raw cancer": Problem(lambda k: layers(k, 30, 32, 2), on(cancer, perceptron)),
        "tanh, iris": Problem(lambda k: layers(k, 4, 32, 32, 3), on(iris, tanh_net)),
        "digits of 0 to 16, summed": Problem(lambda k: layers(k, 64, 64, 10), on(digits, perceptron, 64.0)),
        "batch norm, raw wine": Problem(
            lambda k: {"layers": layers(k, 13, 32, 32, 3), "scales": [jnp.ones((1, 32))] * 2}, on(wine, batch_norm)
        ),
        "recurrent, running sum": Problem(recurrent, running_sum),
        "coupling flow": Problem(lambda k: [layers(kk, 1, 24, 2) for kk in jax.random.split(k, 4)], flow),
        "temporal difference": Problem(
            lambda k: layers(k, 6, 64, 64, 1),
            temporal_difference,
            score=lambda p: jnp.mean((perceptron(p, states)[:, 0] - values) ** 2),
        ),
    }
