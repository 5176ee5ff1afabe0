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
ES with unequal horizons, whose number of counted steps varies (a ratio, biased by O(1/N)). `Objective.FINAL` puts
T (D_k - D_{k-1}) in the place of D_k, which telescopes to the loss of the last step of an episode.

An episode may end anywhere in a window: noise, reset and credit follow each pair's own clock, step by step. Since xi
only changes where noise is redrawn, D is summed per block; no array of the size of theta is carried through a window.

All randomness is `fold_in(key, pair, …)`: draws do not depend on how the pairs are spread over devices.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from learned_opt.errors import InputError
from meta_train.estimators import diagnostics
from meta_train.estimators.clock import Clock, Phases, Plan, Since, Timetable
from meta_train.estimators.credit import Carry, Draws, Objective, sums_of_draws, telescoped
from meta_train.estimators.shaping import Shaping, by_running, remember, shape
from meta_train.estimators.unroll import Antithetic, AntitheticWithMean, Probe, Seen, accumulator, at, unroll
from meta_train.noise import LowRank, Noise
from meta_train.problem import Problem

PyTree = Any

DATA, NOISE = 0, 1
"""Streams of a run's key: episodes with their batches, and perturbations."""


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
    eps: PyTree = ()
    """Draw of the running block, leading axis [N]; () where it is regenerated."""
    last: PyTree = ()
    """D of the step before, [N]; () for the mean loss."""
    scale: PyTree = ()
    """Of running shaping, see `shaping.remember`; () for others."""


class Window(NamedTuple):
    """What a window showed, before it becomes a gradient."""

    credit: Array
    """Sum of D over the steps of every pair and noise block, [N, slots]."""
    steps: Array
    """Counted steps of every pair and noise block, [N, slots]."""
    eps: PyTree
    """Draws, leading axes [N, slots]."""
    xi: PyTree
    """What the steps of a block are credited to: sums of draws, leading axes [N, slots]."""
    plan: Plan
    seen: Seen
    state: EvolutionState
    """After the window."""


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
    objective: Objective = Objective.MEAN
    """What of an episode is differentiated."""
    shaping: Shaping = Shaping.NONE
    """What becomes of differences."""
    draws: Draws = Draws.REGENERATED
    """Whether noise is stored."""
    probe: Probe | None = None
    """What a pair consists of; None: two perturbed states, and the mean state where it is carried."""
    since: Since = Since.EPISODE
    """Where the steps of the interval are counted from."""

    def __post_init__(self) -> None:
        """Check that the settings belong together.

        Raises:
          InputError: a noise interval where nothing is carried along, or low-rank noise that would have to be summed.
        """
        if self.carry is Carry.NONE and self.interval is not None:
            raise InputError(f"interval {self.interval}: full ES draws its noise once an episode, expected None")
        if self.accumulates and isinstance(self.noise, LowRank):
            raise InputError(
                f"interval {self.interval}: a sum of low-rank draws is not of low rank; expected None (es-single), or "
                "dense noise"
            )

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate, all particles counted, idle ones of full ES too."""
        return self.pairs * self._probe.states * self.window

    @property
    def timetable(self) -> Timetable:
        """The settings that time depends on."""
        return Timetable(self.pairs, self.window, self.interval, self.phases, self.carry is Carry.NONE, self.since)

    @property
    def accumulates(self) -> bool:
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
        draw = jax.eval_shape(self.noise.draw, key, jnp.int32(0), jnp.int32(0), theta)
        particle = jax.eval_shape(lambda t, d, k: self._probe.begin(problem, t, d, k), theta, draw, key)
        keys = lambda stream: jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, stream), pair)
        pair = jnp.arange(self.pairs)
        empty = lambda tree: jax.tree.map(lambda x: jnp.zeros((self.pairs, *x.shape), x.dtype), tree)
        return EvolutionState(
            data_keys=keys(DATA),
            noise_keys=keys(NOISE),
            clock=self.timetable.start(),
            particles=empty(particle),
            xi=empty(draw) if self.accumulates else (),
            eps=empty(draw) if self.draws is Draws.STORED else (),
            last=jnp.zeros((self.pairs,), accumulator(theta)) if self.objective is Objective.FINAL else (),
            scale=jnp.zeros((2,), accumulator(theta)) if self.shaping is Shaping.RUNNING else (),
        )

    def estimate(
        self, problem: Problem, theta: PyTree, state: EvolutionState
    ) -> tuple[PyTree, EvolutionState, dict[str, Array]]:
        """One estimate from the next W inner steps of every pair.

        Returns:
          gradient like theta, of the mean loss per inner step; the next state; metrics of `diagnostics`.
        """
        window = self.run(problem, theta, state)
        weights = self.weights(window)
        gradient = self.noise.combine(theta, weights, window.xi)
        squares = self.pairs**2 * self.noise.squares(theta, weights, window.xi)
        metrics = diagnostics.losses(problem, window.plan.ticks, window.seen)
        return gradient, window.state, metrics | diagnostics.signal_to_noise(gradient, squares)

    def run(
        self,
        problem: Problem,
        theta: PyTree,
        state: EvolutionState,
        each: PyTree = None,
        *,
        segment: int | None = None,
    ) -> Window:
        """The next W inner steps of every pair.

        To differentiate pair by pair, `each` is a copy of theta for each, and `segment` as in `unroll`.
        """
        plan = self.timetable.plan(problem, state.clock, state.data_keys)
        ticks = plan.ticks
        eps = self._draws(problem, theta, state)
        xi = sums_of_draws(state.xi, eps, ticks) if self.accumulates else eps
        particles, seen = unroll(
            problem,
            self._probe,
            theta if each is None else each,
            eps,
            state.particles,
            plan,
            theta_axis=None if each is None else 0,
            segment=segment,
        )
        delta, last = seen.delta, state.last
        if self.objective is Objective.FINAL:
            # A block of truncated ES that went on from the last difference would only add the noise of another draw.
            fresh = ticks.redraws if self.carry is Carry.MEAN else ticks.t == 0
            delta, last = telescoped(ticks, delta, state.last, fresh), delta[-1]
        slots = jnp.arange(self.timetable.slots(problem))
        mine = ticks.counted[..., None] & (ticks.slot[..., None] == slots[None, None])  # [W, N, slots]
        credit = jnp.sum(jnp.where(mine, delta[..., None], 0.0), axis=0)
        new = state._replace(
            clock=plan.clock,
            particles=particles,
            xi=at(xi, ticks.slot[-1]) if self.accumulates else (),
            eps=at(eps, ticks.slot[-1]) if self.draws is Draws.STORED else (),
            last=last,
        )
        if self.shaping is Shaping.RUNNING:
            steps = jnp.sum(mine, axis=0)
            new = new._replace(scale=remember(state.scale, credit / jnp.maximum(steps, 1), steps > 0))
        return Window(credit, jnp.sum(mine, axis=0), eps, xi, plan, seen, new)

    def weights(self, window: Window) -> Float[Array, "N slots"]:
        """What multiplies xi in the gradient."""
        credit, steps = window.credit, window.steps
        if self.shaping is not Shaping.NONE:
            m = credit / jnp.maximum(steps, 1)
            running = self.shaping is Shaping.RUNNING
            credit = steps * (by_running(window.state.scale, m) if running else shape(self.shaping, m, steps > 0))
        counted = jnp.maximum(jnp.sum(steps), 1).astype(credit.dtype)
        return credit / (2.0 * self.noise.sigma**2 * counted)

    @property
    def _probe(self) -> Probe:
        if self.probe is not None:
            return self.probe
        return AntitheticWithMean(self.noise) if self.carry is Carry.MEAN else Antithetic(self.noise)

    def _draws(self, problem: Problem, theta: PyTree, state: EvolutionState) -> PyTree:
        """Noise eps of every pair and slot: draws with leading axes [N, slots]."""
        blocks = state.clock.block[:, None] + jnp.arange(self.timetable.slots(problem))[None]
        draw = jax.vmap(jax.vmap(self.noise.draw, (None, None, 0, None)), (0, 0, 0, None))
        eps = draw(state.noise_keys, jnp.arange(self.pairs), blocks, theta)
        if self.draws is Draws.STORED:
            eps = jax.tree.map(lambda drawn, kept: drawn.at[:, 0].set(kept), eps, state.eps)
        return eps
