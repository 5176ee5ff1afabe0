"""Evolution strategies for unrolled computations: ES-Single, PES, GPES, truncated ES and full ES as one machine.

N antithetic pairs run theta + eps and theta - eps on the same episode, W inner steps per estimate. Every pair redraws
its noise every K steps of its episode, and at the start of each episode. With xi the sum of the draws that the
current episode has seen so far, and D_k = L_k(theta + eps) - L_k(theta - eps),

    g = 1/(2 sigma^2) * 1/(N W) * sum over pairs and steps k of  xi_k D_k

K = infinity   ES-Single = NRES (Vicol 2023, arXiv:2304.11153; Li et al. 2023, arXiv:2304.12180)
K = W          PES (Vicol, Metz, Sohl-Dickstein 2021, arXiv:2112.13835)
other K        GPES (Li et al. 2023)
`Carry.MEAN`   truncated ES: each block starts from the state that theta itself reaches; xi = eps; biased
`Carry.NONE`   full ES: each estimate runs whole episodes from their start, W = the longest

The objective is the mean loss over all counted steps, so with unequal horizons a long episode weighs more than a short
one; `problem.mean_loss` scores episode by episode. Unbiased for it at fixed theta, except truncated ES, and except full
ES with unequal horizons, whose number of counted steps varies (a ratio, biased by O(1/N)).

An episode may end anywhere in a window: noise, reset and credit follow each pair's own clock, step by step. Since xi
only changes where noise is redrawn, the scan carries one sum of D per block and no array of the size of theta.

All randomness is `fold_in(key, pair, …)`: draws do not depend on how the pairs are spread over devices.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from learned_opt.errors import InputError
from meta_train.noise import Noise
from meta_train.problem import Problem, bounded_loss, step_key

PyTree = Any

DATA, NOISE = 0, 1
"""Streams of a run's key: episodes with their batches, and perturbations."""


class Carry(Enum):
    """What a pair takes along from one noise block to the next."""

    PARTICLES = "particles"
    """Its two perturbed states and the credit xi of all noise that shaped them."""
    MEAN = "mean"
    """The state reached under the unperturbed theta, unrolled as a third particle."""
    NONE = "none"
    """Nothing: every window begins with a new episode and idles after its end."""


class Phases(Enum):
    """Where in their episodes the pairs are, relative to each other."""

    LOCKSTEP = "lockstep"
    """All begin together: an estimate sees one part of an episode, the next one another."""
    SPREAD = "spread"
    """Evenly spread (step-unlocked): the first episode of pair i of N ends after (i + 1) / N of its horizon, so that
    from then on every estimate sees all parts of an episode."""


class Clock(NamedTuple):
    """Where one pair stands, before a step. Fields have shape [N]."""

    t: Array
    """Inner steps made in the current episode, int32."""
    horizon: Array
    """Inner steps of the current episode, int32; t = horizon: the next step begins an episode."""
    episode: Array
    """Episodes begun, int32."""
    block: Array
    """Noise blocks begun, int32."""


class Tick(NamedTuple):
    """What one pair does at one step. Fields have shape [N]."""

    t: Array
    """Index of the step within its episode."""
    episode: Array
    """Its episode."""
    begins: Array
    """True: a new episode begins with this step."""
    redraws: Array
    """True: a new noise block begins with this step."""
    slot: Array
    """Noise blocks begun within this window; 0 is the one that was running before."""
    counted: Array
    """False: the pair idles (`Carry.NONE` after the end of its episode)."""


class EvolutionState(NamedTuple):
    """Everything that changes from one estimate to the next."""

    data_keys: Array
    """Key of every pair for its episodes, [N]."""
    noise_keys: Array
    """Key of every pair for its noise, [N]."""
    clock: Clock
    particles: PyTree
    """Problem states, leading axes [N, S]; S = 2, or 3 with the mean state."""
    xi: PyTree
    """Sum of the draws that the current episode has seen, leading axis [N]; () where xi = eps."""


@dataclass(frozen=True)
class Evolution:
    """An estimator of the family; `meta_train.estimators` has constructors by name."""

    noise: Noise
    """Perturbations of theta."""
    pairs: int
    """Antithetic pairs N."""
    window: int
    """Inner steps W per estimate."""
    interval: int | None
    """Inner steps K between noise draws; None: one draw an episode."""
    carry: Carry = Carry.PARTICLES
    """What goes from block to block."""
    phases: Phases = Phases.LOCKSTEP
    """How the pairs start."""

    def __post_init__(self) -> None:
        """Check that the settings belong together.

        Raises:
          InputError: a noise interval where nothing is carried along.
        """
        if self.carry is Carry.NONE and self.interval is not None:
            raise InputError(f"interval {self.interval}: full ES draws its noise once an episode, expected None")

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate, all particles counted, idle ones of full ES too."""
        return self.pairs * len(self._signs) * self.window

    @property
    def _signs(self) -> tuple[float, ...]:
        return (1.0, -1.0, 0.0) if self.carry is Carry.MEAN else (1.0, -1.0)

    @property
    def _accumulates(self) -> bool:
        """Whether an episode can see more than one draw that counts; otherwise xi = eps and is not stored."""
        return self.carry is Carry.PARTICLES and self.interval is not None

    def init(self, problem: Problem, theta: PyTree, key: Key[Array, ""]) -> EvolutionState:
        """State before the first estimate; the first step of every pair begins an episode.

        Raises:
          InputError: the window of full ES is shorter than an episode can be.
        """
        if self.carry is Carry.NONE and self.window < problem.max_horizon:
            raise InputError(
                f"window {self.window}: full ES runs whole episodes, expected at least {problem.max_horizon}"
            )
        shapes = jax.eval_shape(problem.reset, theta, key)
        lead = (self.pairs, len(self._signs))
        draw = jax.eval_shape(self.noise.draw, key, jnp.int32(0), jnp.int32(0), theta)
        keys = lambda stream: jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, stream), pair)
        pair = jnp.arange(self.pairs)
        xi = jax.tree.map(lambda x: jnp.zeros((self.pairs, *x.shape), x.dtype), draw)
        return EvolutionState(
            data_keys=keys(DATA),
            noise_keys=keys(NOISE),
            # Four arrays, not one: a caller may donate the state, and no buffer can be donated twice.
            clock=Clock(*(jnp.zeros((self.pairs,), jnp.int32) for _ in Clock._fields)),
            particles=jax.tree.map(lambda x: jnp.zeros((*lead, *x.shape), x.dtype), shapes),
            xi=xi if self._accumulates else (),
        )

    def estimate(
        self, problem: Problem, theta: PyTree, state: EvolutionState
    ) -> tuple[PyTree, EvolutionState, dict[str, Array]]:
        """One estimate from the next W inner steps of every pair.

        Returns:
          gradient like theta, of the mean loss per inner step; the next state; metrics: `meta_loss` (mean bounded
          loss), `delta_abs_mean` and `delta_abs_max` (difference within a pair, one step), `lost_fraction` (losses
          not finite), `clipped_fraction` (losses above the cap), `episodes_begun`.
        """
        pair = jnp.arange(self.pairs)
        keys = self._episode_keys(problem, state)
        clock, ticks = self._ticks(problem, state, keys)
        eps, xi = self._noise_table(problem, theta, state, ticks)
        dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(theta)))
        signs = jnp.asarray(self._signs, dtype)
        perturb = jax.vmap(jax.vmap(self.noise.perturb, (None, None, 0)), (None, 0, None))
        episode_keys = keys[pair[None], ticks.episode - state.clock.episode[None]]
        step_keys = jax.vmap(jax.vmap(step_key))(episode_keys, ticks.t)

        def step(carry: tuple[PyTree, Array], now: tuple[Tick, Array, Array]) -> tuple[tuple[PyTree, Array], Array]:
            particles, credit = carry
            tick, episode_key, step_key = now
            theta_now = perturb(theta, _at(eps, tick.slot), signs)
            particles = self._begin(problem, theta_now, particles, episode_key, tick)
            over_signs = jax.vmap(problem.step, (0, 0, None))
            particles, loss = jax.vmap(over_signs)(theta_now, particles, step_key)
            loss = loss[:, :2].astype(dtype)
            bounded = bounded_loss(problem, loss)
            delta = jnp.where(tick.counted, bounded[:, 0] - bounded[:, 1], 0.0)
            credit = jax.vmap(lambda c, slot, d: c.at[slot].add(d))(credit, tick.slot, delta)
            return (particles, credit), loss

        credit = jnp.zeros(self._table_shape(problem), dtype)
        carry, loss = jax.lax.scan(step, (state.particles, credit), (ticks, episode_keys, step_keys))
        particles, credit = carry

        counted = jnp.maximum(jnp.sum(ticks.counted), 1)
        weights = credit / (2.0 * self.noise.sigma**2 * counted.astype(dtype))
        gradient = self.noise.combine(theta, weights, xi)
        last = _at(xi, ticks.slot[-1]) if self._accumulates else ()
        return gradient, state._replace(clock=clock, particles=particles, xi=last), _metrics(problem, ticks, loss)

    def _table_shape(self, problem: Problem) -> tuple[int, int]:
        """Pairs, and the most noise blocks that one can meet in a window, the running one included."""
        episodes = 1 if self.carry is Carry.NONE else -(-self.window // problem.min_horizon)
        draws = 0 if self.interval is None else -(-self.window // self.interval)
        cut = 1 if self.phases is Phases.SPREAD else 0
        return self.pairs, 1 + episodes + draws + cut

    def _episode_keys(self, problem: Problem, state: EvolutionState) -> Array:
        """Keys of the running episode of every pair and of those it can meet in a window: [N, slots]."""
        slots = self._table_shape(problem)[1]
        episodes = state.clock.episode[:, None] + jnp.arange(slots)[None]
        return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(state.data_keys, episodes)

    def _ticks(self, problem: Problem, state: EvolutionState, keys: Array) -> tuple[Clock, Tick]:
        """Clock after the window, and what every pair does at each of its W steps: fields [W, N]."""
        pair = jnp.arange(self.pairs, dtype=jnp.int32)
        horizons = jax.vmap(jax.vmap(problem.horizon))(keys)
        if self.phases is Phases.SPREAD:
            cut = -(-horizons * (pair + 1)[:, None] // self.pairs)
            first = state.clock.episode[:, None] + jnp.arange(keys.shape[1])[None] == 1
            horizons = jnp.where(first, cut, horizons)

        def one(carry: tuple[Clock, Array], k: Array) -> tuple[tuple[Clock, Array], Tick]:
            clock, slot = carry
            begins = jnp.broadcast_to(k == 0, slot.shape) if self.carry is Carry.NONE else clock.t >= clock.horizon
            episode = clock.episode + begins
            t = jnp.where(begins, 0, clock.t)
            horizon = jnp.where(begins, horizons[pair, episode - state.clock.episode], clock.horizon)
            counted = t < horizon
            redraws = counted & ((t == 0) if self.interval is None else (t % self.interval == 0))
            slot = slot + redraws
            tick = Tick(t, episode, begins, redraws, slot, counted)
            return (Clock(t + 1, horizon, episode, clock.block + redraws), slot), tick

        slot = jnp.zeros((self.pairs,), jnp.int32)
        (clock, _), ticks = jax.lax.scan(one, (state.clock, slot), jnp.arange(self.window))
        return clock, ticks

    def _noise_table(
        self, problem: Problem, theta: PyTree, state: EvolutionState, ticks: Tick
    ) -> tuple[PyTree, PyTree]:
        """Noise eps and credit xi of every pair and slot: draws with leading axes [N, slots]."""
        pairs, slots = self._table_shape(problem)
        blocks = state.clock.block[:, None] + jnp.arange(slots)[None]
        draw = jax.vmap(jax.vmap(self.noise.draw, (None, None, 0, None)), (0, 0, 0, None))
        eps = draw(state.noise_keys, jnp.arange(pairs), blocks, theta)
        if not self._accumulates:
            return eps, eps
        starts = ticks.begins[..., None] & (ticks.slot[..., None] == jnp.arange(slots)[None, None])
        continues = ~jnp.any(starts, axis=0)  # [N, slots]: the slot's episode had earlier noise

        def accumulate(xi: Array, eps: Array) -> Array:
            sums = [xi]
            for j in range(1, slots):
                keep = jnp.reshape(continues[:, j], (pairs, *(1,) * (xi.ndim - 1)))
                sums.append(jnp.where(keep, sums[-1], 0.0) + eps[:, j])
            return jnp.stack(sums, axis=1)

        return eps, jax.tree.map(accumulate, state.xi, eps)

    def _begin(self, problem: Problem, thetas: PyTree, particles: PyTree, keys: Array, tick: Tick) -> PyTree:
        """Particles with new blocks rejoined to the mean state, if there is one, and new episodes begun."""

        def where(condition: Array, new: Array, old: Array) -> Array:
            return jnp.where(jnp.reshape(condition, (-1,) + (1,) * (old.ndim - 1)), new, old)

        if self.carry is Carry.MEAN:
            particles = jax.tree.map(lambda x: where(tick.redraws, x[:, 2:], x), particles)

        def begin() -> PyTree:
            new = jax.vmap(jax.vmap(problem.reset, (0, None)))(thetas, keys)
            return jax.tree.map(lambda n, o: where(tick.begins, n, o), new, particles)

        # Initialising a model costs more than a step; most steps begin no episode at all.
        return jax.lax.cond(jnp.any(tick.begins), begin, lambda: particles)


def _at(tree: PyTree, index: Int[Array, " N"]) -> PyTree:
    """Entry `index` of every pair, pair by pair: no indexing across the axis that devices share."""
    return jax.tree.map(jax.vmap(lambda x, i: x[i]), tree, jax.tree.map(lambda _: index, tree))


def _metrics(problem: Problem, ticks: Tick, loss: Float[Array, "W N 2"]) -> dict[str, Array]:
    mask = ticks.counted[..., None]
    counted = jnp.maximum(jnp.sum(ticks.counted), 1)
    bounded = jnp.where(mask, bounded_loss(problem, loss), 0.0)
    delta = jnp.abs(bounded[..., 0] - bounded[..., 1])
    return {
        "meta_loss": jnp.sum(bounded) / (2 * counted),
        "delta_abs_mean": jnp.sum(delta) / counted,
        "delta_abs_max": jnp.max(delta),
        "lost_fraction": jnp.sum(mask & ~jnp.isfinite(loss)) / (2 * counted),
        "clipped_fraction": jnp.sum(mask & jnp.isfinite(loss) & (loss > problem.loss_cap)) / (2 * counted),
        "episodes_begun": jnp.sum(ticks.begins),
    }
