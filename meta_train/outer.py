"""The outer step: a meta-gradient from every task, AdamW, new weights theta. One program, one state.

g      = mean over tasks of estimate(task, theta)
theta <- theta + s AdamW(clip(s g)),   warm-up + cosine; skipped when g is not finite

s are the factors on the noise of each part, so that a part is sought in units of its noise; 1 unless set.
"""

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from learned_opt.errors import InputError, WeightsError
from learned_opt.pretrained import load_pretrained
from learned_opt.rules import make_rule
from learned_opt.rules.base import Rule, check_theta
from meta_train import estimators
from meta_train import mesh as meshes
from meta_train.config import MetaOptimizerConfig, MetaTrainConfig
from meta_train.estimators.objectives import Relative, Validated
from meta_train.factor import Factor
from meta_train.horizon import LogUniform
from meta_train.noise.base import leaf_scales
from meta_train.problem import TaskProblem, mean_loss
from tasks.catalogue.entries import Library
from tasks.mixture import draw
from tasks.streaming import Reservoir
from tasks.suites import family
from tasks.task import Task

PyTree = Any
Problems = tuple[Any, ...]
"""`TaskProblem`, or what `estimators.objectives` makes of one; to make steps, any `Problem` will do."""

THETA, TASKS, EPISODES, SCORE = range(4)
"""Streams of the run's key: initial weights, drawn tasks, estimators, and the episodes of `score`."""


@runtime_checkable
class Estimator(Protocol):
    """A meta-gradient estimator as the outer step uses it; see `meta_train.estimators`."""

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate, all particles counted."""
        ...

    def init(self, problem: Any, theta: PyTree, key: Key[Array, ""]) -> PyTree:
        """State before the first estimate: everything that changes, a pytree of arrays."""
        ...

    def estimate(self, problem: Any, theta: PyTree, state: PyTree) -> tuple[PyTree, PyTree, dict[str, Array]]:
        """Gradient like theta; the next state; scalar metrics, `meta_loss` among them."""
        ...


class State(NamedTuple):
    """Everything that changes from one outer step to the next."""

    step: Array
    """Outer steps made, int32."""
    theta: PyTree
    """Weights sought."""
    opt_state: optax.ApplyIfFiniteState
    """State of the meta-optimizer."""
    estimators: tuple[PyTree, ...]
    """State of the estimator of each task: particles, clocks, keys."""
    totals: dict[str, Array]
    """Sums of the metrics since the last line of metrics.jsonl."""


class Report(NamedTuple):
    """What the host reads after an outer step."""

    meta_loss: Array
    """Mean bounded loss per inner step, of this outer step alone."""
    theta_norm: Array
    """Global norm of the new weights."""
    failures: Array
    """Outer steps in a row, up to this one, whose gradient was not finite; int32."""
    means: dict[str, Array]
    """Metrics averaged over the outer steps since the last line of metrics.jsonl."""
    stops: PyTree = ()
    """On a mesh: devices whose process asks all to stop, by signal, see `mesh.stop_request`."""


@dataclass(frozen=True)
class Experiment:
    """A configuration, made concrete. The problems are a pytree of device arrays; pass them to `step` as arguments."""

    config: MetaTrainConfig
    rule: Rule
    estimator: Estimator
    problems: Problems
    reservoirs: tuple[Reservoir, ...] = ()
    """Streams of the data sets that do not fit on the device; the problems hold their first buffers."""
    mesh: Any = None
    """Devices that share the particles, see `meta_train.mesh`; then the problems are replicated on it. None: one."""

    @property
    def inner_steps(self) -> int:
        """Inner steps of one outer step, all particles of all tasks counted."""
        return self.estimator.inner_steps * len(self.problems)

    @cached_property
    def task_shapes(self) -> dict[str, str]:
        """Of each task, by place and name: CRC-32 of the shapes of its data and of what it trains.

        Not of values, which differ in their last bits between devices, nor of settings, whose names may change.
        """
        return {f"{i} {problem.task.name}": _shapes(problem.task) for i, problem in enumerate(self.problems)}

    def initial_theta(self) -> PyTree:
        """Weights before the first outer step.

        Raises:
          WeightsError: those to start from are not there, or damaged.
          InputError: they are of another architecture, or it has no expert.
        """
        start = self.config.rule.start
        if start is None:
            return self.rule.init(self._key(THETA))
        if start == "expert":
            if not hasattr(self.rule, "expert"):
                raise InputError(f"rule.start expert: {self.rule.name} imitates none; leave it out, or name weights")
            return cast(Any, self.rule).expert(self._key(THETA))
        try:
            found = load_pretrained(start)
        except WeightsError as error:
            raise WeightsError(f"rule.start {start}: {error}") from error
        if type(found.rule) is not type(self.rule):
            raise InputError(f"rule.start {start}: weights of {found.rule}, expected those of {self.rule}")
        check_theta(self.rule, found.theta)
        return found.theta

    def remarks(self) -> list[str]:
        """Lines for the user: settings that differ from those that the weights to start from were made with.

        Raises:
          WeightsError: see `initial_theta`.
        """
        start, mine = self.config.rule.start, asdict(cast(Any, self.rule))
        if start in (None, "expert"):
            return []
        theirs = asdict(cast(Any, load_pretrained(start).rule))
        odd = [name for name in mine if name in theirs and theirs[name] != mine[name]]
        if not odd:
            return []
        told = lambda values: ", ".join(f"{name} {values[name]}" for name in odd)
        return [f"rule.start {start}: weights made with {told(theirs)}, here {told(mine)} (--rule.settings)"]

    def init(self) -> State:
        """State before the first outer step."""
        theta = self.initial_theta()
        if self.mesh is None:
            return self._first(theta, self.problems)
        theta = meshes.replicate(self.mesh, theta)
        return jax.jit(self._first, out_shardings=self.shardings())(theta, self.problems)

    def shapes(self) -> State:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(lambda problems: self._first(self.initial_theta(), problems), self.problems)

    def shardings(self) -> State:
        """Where the parts of the state lie on the mesh."""
        shapes = self.shapes()
        everywhere = jax.tree.map(lambda _: meshes.replicated(self.mesh), shapes)
        particles = meshes.of_pairs(self.mesh, shapes.estimators, self.config.estimator.pairs)
        return everywhere._replace(estimators=particles)

    def _first(self, theta: PyTree, problems: Problems) -> State:
        key = self._key(EPISODES)
        states = tuple(
            self.estimator.init(problem, theta, jax.random.fold_in(key, i)) for i, problem in enumerate(problems)
        )
        opt_state = cast(optax.ApplyIfFiniteState, self._meta_optimizer().init(theta))
        state = State(jnp.int32(0), theta, opt_state, states, totals={})
        # Those of a mesh are the same ones.
        apply = lambda state, problems: self._apply(state, self._estimate(state, problems, ()))
        _, metrics = jax.eval_shape(apply, state, problems)
        return state._replace(totals={name: jnp.zeros(x.shape, x.dtype) for name, x in metrics.items()})

    def step(self, state: State, problems: Problems, stop: PyTree = ()) -> tuple[State, Report]:
        """One outer step; pure and jittable.

        Args:
          state: as `init` gives it.
          problems: as those of the experiment, with the data of this step.
          stop: on a mesh, see `mesh.stop_request`.
        """
        once = self.mesh is not None and meshes.exchanges_once(self.estimator)
        found = (self._exchange if once else self._estimate)(state, problems, stop)
        new, metrics = self._apply(state, found)
        done = state.step % self.config.metrics_every  # steps that the totals hold
        totals = {name: jnp.where(done == 0, 0.0, state.totals[name]) + x for name, x in metrics.items()}
        means = {name: total / (done + 1) for name, total in totals.items()}
        report = Report(metrics["meta_loss"], metrics["theta_norm"], new.opt_state.notfinite_count, means, found.stops)
        return new._replace(totals=totals), report

    def score(self, theta: PyTree) -> Float[Array, "tasks episodes"]:
        """Mean loss per inner step on fixed whole episodes, the same for every theta."""
        keys = jax.random.split(self._key(SCORE), self.config.scored_episodes)
        return jnp.stack([_mean_loss(problem, theta, keys) for problem in self.problems])

    def _apply(self, state: State, found: meshes.Estimate) -> tuple[State, dict[str, Array]]:
        gradient, states, metrics, _ = found
        scales = self._scales(gradient)
        in_units = jax.tree.map(lambda g, s: s * g if s else jnp.zeros_like(g), gradient, scales)
        updates, opt_state = self._meta_optimizer().update(in_units, state.opt_state, state.theta)
        opt_state = cast(optax.ApplyIfFiniteState, opt_state)
        theta = optax.apply_updates(state.theta, jax.tree.map(jnp.multiply, updates, scales))
        metrics = {name: jnp.asarray(x, jnp.float32) for name, x in metrics.items()} | {
            "gradient_norm": optax.tree.norm(in_units),
            "theta_norm": optax.tree.norm(theta),
            "learning_rate": schedule(self.config.meta_optimizer, self.config.steps)(state.step),
            "skipped": 1.0 - jnp.asarray(opt_state.last_finite, jnp.float32),
        }
        return State(state.step + 1, theta, opt_state, states, state.totals), metrics

    def _exchange(self, state: State, problems: Problems, stop: PyTree) -> meshes.Estimate:
        """On the mesh, by one all-reduce."""
        return meshes.estimate(self.mesh, self.estimator, problems, state.theta, state.estimators, stop)

    def _estimate(self, state: State, problems: Problems, stop: PyTree) -> meshes.Estimate:
        """On one device, or as XLA's partitioner sees fit."""
        estimates = [
            self.estimator.estimate(problem, state.theta, estimator_state)
            for problem, estimator_state in zip(problems, state.estimators, strict=True)
        ]
        gradients, states, metrics = zip(*estimates, strict=True)
        gradient, means = meshes.mean(gradients), meshes.mean(metrics)
        if len(problems) > 1 and meshes.SIGNAL in means:
            pairs = self.config.estimator.pairs
            squares = [meshes.mean_square(g, m, pairs) for g, m in zip(gradients, metrics, strict=True)]
            means[meshes.SIGNAL] = meshes.signal_to_noise(gradient, squares, pairs)
        return meshes.Estimate(gradient, states, means, jax.tree.map(lambda x: jnp.sum(x, axis=0), stop))

    def _meta_optimizer(self) -> optax.GradientTransformation:
        return meta_optimizer(self.config.meta_optimizer, self.config.steps, self._moves)

    def _scales(self, theta: PyTree) -> PyTree:
        """s of every leaf of theta; those of scale 0 stay as they are."""
        scales = leaf_scales(theta, tuple(self.config.estimator.scales.items()))
        return jax.tree.unflatten(jax.tree.structure(theta), scales)

    def _moves(self, theta: PyTree) -> PyTree:
        return jax.tree.map(lambda scale: scale > 0, self._scales(theta))

    def _key(self, stream: int) -> Array:
        return jax.random.fold_in(jax.random.key(self.config.seed), stream)


def _shapes(task: Task) -> str:
    """See `Experiment.task_shapes`."""
    described = [*jax.tree.leaves(task), *jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))]
    return f"{zlib.crc32(' '.join(f'{x.dtype}{x.shape}' for x in described).encode()):08x}"


def build(config: MetaTrainConfig) -> Experiment:
    """Read the data and draw the tasks of a configuration.

    Raises:
      InputError: an unknown rule or family (the latter of `tasks.errors`), or data that are not there.
    """
    rule = make_rule(config.rule.name, config.rule.settings)
    horizon = LogUniform(config.horizon.low, config.horizon.high)
    key = jax.random.fold_in(jax.random.key(config.seed), TASKS)
    library = Library(seed=config.seed)
    tasks = draw(family(config.tasks.family, library=library), key, config.tasks.samples)
    factor = Factor(**asdict(config.factor))
    problems: Problems = tuple(TaskProblem(task, rule, horizon, factor) for task in tasks)
    wrapped = {"validation": Validated, "relative": Relative}.get(config.estimator.objective)
    if wrapped is not None:
        problems = tuple(wrapped(problem) for problem in problems)
    estimator = estimators.build(config.estimator, max_horizon=config.horizon.high)
    return Experiment(config, rule, estimator, problems, tuple(library.streams))


def meta_optimizer(
    config: MetaOptimizerConfig, steps: int, decays: Callable[[PyTree], PyTree] | None = None
) -> optax.GradientTransformation:
    """AdamW after clipping to a global norm; a gradient that is not finite changes nothing and is counted.

    Args:
      config: its settings.
      steps: outer steps of the whole run.
      decays: from theta to a tree of bool, where weight decay applies; everywhere by default.
    """
    adamw = optax.adamw(schedule(config, steps), weight_decay=config.weight_decay, mask=decays)
    clipped = optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    never = int(jnp.iinfo(jnp.int32).max)
    return optax.apply_if_finite(clipped, max_consecutive_errors=never)


def schedule(config: MetaOptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate: linear from zero over the warm-up, then a cosine that ends at step `steps`."""
    peak = config.learning_rate
    if config.warmup_steps == 0:
        return optax.cosine_decay_schedule(peak, steps, alpha=config.final_fraction)
    return optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup_steps, steps, config.final_fraction * peak)


_mean_loss = jax.jit(mean_loss)
