"""Small problems as people write them, far from the suites: a released optimizer beside tuned Adam and AdamW.

    python benchmarks/small_problems.py [--optimizer helm] [--problems logistic,bandit] [--seeds 3] [--unseen]

Models that start at zero, models without a matrix, losses that may be negative, and a few networks. Every problem is a
model with its own initialisation, minibatches of a fixed data set (none downloaded) and a number of steps. Reported is
the mean training loss of the last twentieth of the run, mean over seeds, except for `bandit`, whose loss says nothing:
minus the expected reward. Adam, and AdamW with 5 % warm-up, a cosine and decay 0.001, have the best of eight rates
(0.0001 to 0.3), chosen on the very seeds. One JSON line a problem. That a model at zero counts as an
initialiser would have it, and the share `learned_opt.helm_sizes.SURROGATE`, were settled on the first eight.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


class Problem(NamedTuple):
    """Something to minimise."""

    init: Callable[[Any], Any]
    """From a key to parameters."""
    loss: Callable[[Any, Any], Any]
    """(parameters, key of the minibatch) -> loss."""
    steps: int = 1000
    score: Callable[[Any], Any] | None = None
    """From the last parameters to what is reported, where that is not the loss."""


def zeros(**shapes: tuple[int, ...]) -> Callable[[Any], Any]:
    """An initialisation that has nothing but zeros."""
    return lambda key: {name: jnp.zeros(shape) for name, shape in shapes.items()}


def rows(key: Any, *arrays: Any) -> tuple[Any, ...]:
    """64 rows, drawn."""
    i = jax.random.randint(key, (64,), 0, len(arrays[0]))
    return tuple(x[i] for x in arrays)


def layers(key: Any, *widths: int) -> list[Any]:
    """Weights of a perceptron: normal with variance 1 / fan-in, biases at zero."""
    keys = jax.random.split(key, len(widths) - 1)
    normal = lambda k, i, o: jax.random.normal(k, (i, o)) / np.sqrt(i).astype(np.float32)
    return [(normal(k, i, o), jnp.zeros((1, o))) for k, i, o in zip(keys, widths[:-1], widths[1:], strict=True)]


def perceptron(params: list[Any], x: Any) -> Any:
    """Its outputs."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def tanh_net(params: list[Any], x: Any) -> Any:
    """A perceptron's outputs, with tanh."""
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean over the minibatch."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def problems() -> dict[str, Problem]:
    """All of them."""
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

    key = jax.random.key(99)
    cancer: Any = load_breast_cancer()
    diabetes: Any = load_diabetes()
    wine: Any = load_wine()
    raw, malignant = jnp.asarray(cancer.data, jnp.float32), jnp.asarray(cancer.target)
    scaled = (raw - raw.mean(0)[None]) / raw.std(0)[None]
    x = jax.random.normal(key, (500, 5))
    line, grid = x @ jnp.arange(1.0, 6.0), jnp.linspace(-3.0, 3.0, 40)
    points = jax.random.normal(jax.random.key(1), (2000, 20))
    classes = jnp.argmax(jnp.tanh(perceptron(layers(jax.random.key(2), 20, 32, 5), points)), 1)
    words = jnp.asarray(np.minimum(np.random.default_rng(0).zipf(1.5, 4000), 200) - 1)
    table = jax.random.normal(jax.random.key(3), (60, 5)) @ jax.random.normal(jax.random.key(4), (5, 50))
    spread = 10.0 ** jnp.linspace(-3.0, 3.0, 12)
    rewards = jnp.linspace(0.0, 1.0, 10)

    def logistic(data: Any) -> Callable[[Any, Any], Any]:
        def loss(p: Any, k: Any) -> Any:
            features, labels = rows(k, data, malignant)
            return cross_entropy(features @ p["w"] + p["b"], labels)

        return loss

    def linear(offset: float) -> Callable[[Any, Any], Any]:
        def loss(p: Any, k: Any) -> Any:
            features, targets = rows(k, x, line + offset)
            return jnp.mean((features @ p["w"] + p["b"] - targets) ** 2)

        return loss

    def gaussian_process(p: Any, k: Any) -> Any:
        """Negative log likelihood a point of a sine, for a squared exponential kernel and noise."""
        length, size, noise = jnp.exp(p["length"]), jnp.exp(p["size"]), jnp.exp(p["noise"])
        kernel = size * jnp.exp(-0.5 * ((grid[:, None] - grid[None]) / length) ** 2)
        factor = jnp.linalg.cholesky(kernel + (noise + 1e-4) * jnp.eye(40))
        alpha = jax.scipy.linalg.cho_solve((factor, True), jnp.sin(2.0 * grid))
        return 0.5 * (jnp.sin(2.0 * grid) @ alpha) / 40 + jnp.mean(jnp.log(jnp.diag(factor)))

    def bandit(p: Any, k: Any) -> Any:
        """The policy gradient's surrogate, less a baseline: its value is about zero."""
        chance = jax.nn.log_softmax(p["logits"])
        k_arm, k_noise = jax.random.split(k)
        arms = jax.lax.stop_gradient(jax.random.categorical(k_arm, chance, shape=(16,)))
        gain = rewards[arms] + 0.3 * jax.random.normal(k_noise, (16,))
        return -jnp.mean((gain - jnp.mean(gain)) * chance[arms])

    def policy(p: Any, k: Any) -> Any:
        """The same of a perceptron: five arms, of which one pays, told by the features."""
        k_rows, k_arm = jax.random.split(k)
        features, right = rows(k_rows, points, classes)
        chance = jax.nn.log_softmax(perceptron(p, features))
        arms = jax.lax.stop_gradient(jax.random.categorical(k_arm, chance))
        gain = (arms == right) - jnp.mean(arms == right)
        return -jnp.mean(gain * jnp.take_along_axis(chance, arms[:, None], 1)[:, 0])

    def embedding(p: Any, k: Any) -> Any:
        (batch,) = rows(k, words)
        return cross_entropy(p["embed"][batch] @ p["out"], batch % 10)

    def factors(p: Any, k: Any) -> Any:
        i, j = (jax.random.randint(key, (128,), 0, n) for key, n in zip(jax.random.split(k), (60, 50), strict=True))
        return jnp.mean((jnp.sum(p["u"][i] * p["v"][j], 1) - table[i, j]) ** 2)

    def network(p: Any, k: Any) -> Any:
        features, labels = rows(k, points, classes)
        return cross_entropy(perceptron(p, features), labels)

    def residual(p: Any, k: Any) -> Any:
        """Blocks that are multiplied by scalars, which start at zero."""
        features, labels = rows(k, points, classes)
        h = features @ p["in"]
        for (w, b), gate in zip(p["blocks"], p["gates"], strict=True):
            h = h + gate * jax.nn.relu(h @ w + b)
        return cross_entropy(h @ p["out"], labels)

    def raw_targets(p: Any, k: Any) -> Any:
        features, targets = rows(k, jnp.asarray(diabetes.data * 21.0, jnp.float32), jnp.asarray(diabetes.target))
        return jnp.mean((perceptron(p, features)[:, 0] - targets) ** 2)

    def raw_features(p: Any, k: Any) -> Any:
        features, labels = rows(k, jnp.asarray(wine.data, jnp.float32), jnp.asarray(wine.target))
        return cross_entropy(perceptron(p, features), labels)

    def rare(p: Any, k: Any) -> Any:
        """One row of a hundred counts, so most minibatches have neither a loss nor a gradient."""
        k_rows, k_counts = jax.random.split(k)
        features, targets = rows(k_rows, points, jnp.sin(points[:, 0]))
        counts = jax.random.uniform(k_counts, (64,)) < 0.01
        return jnp.mean(counts * (perceptron(p, features)[:, 0] - targets) ** 2)

    def orbit(p: Any) -> Any:
        """Places on an orbit around a mass, by the leapfrog scheme."""

        def step(carry: Any, _: Any) -> Any:
            x, v = carry
            pull = lambda x: -jnp.exp(p["log_mass"]) * x / jnp.sum(x * x) ** 1.5
            v = v + 0.05 * pull(x)
            x = x + 0.1 * v
            return (x, v + 0.05 * pull(x)), x

        return jax.lax.scan(step, (p["x"], p["v"]), None, 80)[1]

    seen = orbit({"log_mass": jnp.float32(0.2), "x": jnp.array([1.0, 0.0]), "v": jnp.array([0.1, 1.1])})

    normal = lambda *shape, scale=1.0: lambda k: scale * jax.random.normal(k, shape)
    pair = lambda a, b: lambda k: {n: f(kk) for (n, f), kk in zip({**a, **b}.items(), jax.random.split(k), strict=True)}
    return {
        "logistic, matrix": Problem(zeros(w=(30, 2), b=(1, 2)), logistic(scaled)),
        "logistic, raw features": Problem(zeros(w=(30, 2), b=(1, 2)), logistic(raw)),
        "linear, vector": Problem(zeros(w=(5,), b=()), linear(10.0)),
        "linear, bias of 1000": Problem(zeros(w=(5,), b=()), linear(1000.0)),
        "scalar from -3 to 3": Problem(lambda k: {"a": jnp.float32(-3.0)}, lambda p, k: (p["a"] - 3.0) ** 2),
        "gaussian process": Problem(zeros(length=(), size=(), noise=()), gaussian_process, 500),
        "bandit": Problem(zeros(logits=(10,)), bandit, 500, lambda p: -jnp.sum(jax.nn.softmax(p["logits"]) * rewards)),
        "vector of 0.001 to 1000": Problem(
            lambda k: {"a": spread * jax.random.normal(k, (12,))}, lambda p, k: jnp.mean((p["a"] / spread - 3.0) ** 2)
        ),
        "embedding": Problem(
            pair({"embed": normal(200, 16, scale=0.1)}, {"out": normal(16, 10, scale=0.25)}), embedding
        ),
        "factorisation": Problem(pair({"u": normal(60, 8, scale=0.1)}, {"v": normal(50, 8, scale=0.1)}), factors),
        "perceptron": Problem(lambda k: layers(k, 20, 64, 64, 5), network),
        "perceptron, raw targets": Problem(lambda k: layers(k, 10, 32, 32, 1), raw_targets),
        "perceptron, raw features": Problem(lambda k: layers(k, 13, 64, 64, 3), raw_features),
        "rare events": Problem(lambda k: [*layers(k, 20, 64), (jnp.zeros((64, 1)), jnp.zeros((1, 1)))], rare),
        "orbit": Problem(
            lambda k: {"log_mass": jnp.zeros(()), "x": jnp.array([0.9, 0.1]), "v": jnp.array([0.0, 1.0])},
            lambda p, k: jnp.mean((orbit(p) - seen) ** 2),
        ),
        "contextual bandit": Problem(
            lambda k: layers(k, 20, 64, 64, 5),
            policy,
            score=lambda p: -jnp.mean(jnp.take_along_axis(jax.nn.softmax(perceptron(p, points)), classes[:, None], 1)),
        ),
        "gated residual net": Problem(
            lambda k: {
                "in": normal(20, 32, scale=0.2)(k),
                "blocks": layers(jax.random.fold_in(k, 1), 32, 32, 32, 32, 32),
                "gates": [jnp.zeros(())] * 4,
                "out": normal(32, 5, scale=0.2)(jax.random.fold_in(k, 2)),
            },
            residual,
        ),
    }


def trained(problem: Problem, make: Callable[[], optax.GradientTransformation], seed: Any) -> Any:
    """What is reported of a run."""
    opt = optax.with_extra_args_support(make())
    params = problem.init(jax.random.key(seed))

    def step(carry: Any, k: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(problem.loss)(params, k)
        updates, state = opt.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), seed), problem.steps)
    (params, _), losses = jax.lax.scan(step, (params, opt.init(params)), keys)
    return jnp.mean(losses[-(problem.steps // 20) :]) if problem.score is None else problem.score(params)


def main() -> None:
    """Run, and print a line for each problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="helm", help="a hands-free release or run")
    parser.add_argument("--problems", help="names, or beginnings of them, with commas between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unseen", action="store_true", help="those of `unseen_problems` instead")
    args = parser.parse_args()
    wanted = tuple(args.problems.split(",")) if args.problems else ("",)
    seeds = jnp.arange(args.seeds)
    if args.unseen:
        from unseen_problems import problems as chosen
    else:
        chosen = problems
    for name, problem in chosen().items():
        if not name.startswith(wanted):
            continue
        learned = lambda p=problem: learned_opt.from_pretrained(args.optimizer, num_steps=p.steps)
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, problem.steps // 20, problem.steps)
        tuned = {
            "adam": optax.adam,
            "adamw": lambda rate, shape=shape: optax.adamw(lambda t: rate * shape(t), weight_decay=1e-3),
        }
        of_seeds = lambda make, p=problem: jax.vmap(lambda seed: trained(p, make, seed))(seeds)
        line: dict[str, Any] = {"problem": name, "steps": problem.steps}
        each = np.asarray(jax.jit(lambda run=of_seeds, opt=learned: run(opt))())
        line[args.optimizer] = float(each.mean())
        for other, make in tuned.items():
            runs = lambda rates, m=make, run=of_seeds: jax.vmap(lambda rate: run(lambda: m(rate)))(rates)
            means = np.asarray(jax.jit(runs)(jnp.array(RATES))).mean(1)
            best = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
            line |= {other: float(means[best]), f"{other}_rate": RATES[best]}
        print(json.dumps(line | {"each": each.tolist()}), flush=True)


if __name__ == "__main__":
    main()
