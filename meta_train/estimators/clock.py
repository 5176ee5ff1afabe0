"""When episodes begin and noise is redrawn: the time of every pair, inner step by inner step.

Integers only: no weight, state or loss enters, so the plan of a window is known before it is run, and an episode may
end anywhere in a window. All randomness is `fold_in(key, pair, …)`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from meta_train.problem import Problem, step_key

PyTree = Any

AXIS = "particles"
"""Name of the mesh axis that pairs are spread over; see `meta_train.mesh`."""

PHASE = 0x7068617365 & 0x7FFFFFFF
"""Stream of a pair's data key that its first phase comes from; episodes have the small numbers to themselves."""


class Phases(Enum):
    """Where in their episodes the pairs are, relative to each other."""

    LOCKSTEP = "lockstep"
    """All begin together: an estimate sees one part of an episode, the next one another."""
    SPREAD = "spread"
    """Evenly spread (step-unlocked): the first episode of pair i of N ends after (i + 1) / N of its horizon, so that
    from then on every estimate sees all parts of an episode."""
    UNIFORM = "uniform"
    """Independent (step-unlocked): the first episode of a pair ends after a uniformly drawn part of its horizon."""
    SPREAD_OVER_MESH = "spread over the mesh"
    """`SPREAD` over the pairs of all places of the mesh axis `AXIS`, in each of which there are N."""


class Since(Enum):
    """Where the inner steps between two noise draws are counted from; the start of an episode is a draw in any case."""

    EPISODE = "episode"
    """Its start: the noise does not depend on where windows end."""
    WINDOW = "window"
    """The window's: no block of noise reaches across windows."""


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
    """What one pair does at one step. Fields have shape [N], in a plan [W, N]."""

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
    """False: the pair idles (whole episodes only, after the end of its own)."""
    horizon: Array
    """Inner steps of its episode."""


class Plan(NamedTuple):
    """What every pair does in a window."""

    clock: Clock
    """After the window."""
    ticks: Tick
    """At every step, fields [W, N]."""
    episode_keys: Array
    """[W, N]."""
    step_keys: Array
    """[W, N]."""


@dataclass(frozen=True)
class Timetable:
    """The settings that time depends on."""

    pairs: int
    """N."""
    window: int
    """Inner steps W per estimate."""
    interval: int | None
    """Inner steps K between noise draws; None: one draw an episode."""
    phases: Phases = Phases.LOCKSTEP
    """How the pairs start."""
    whole: bool = False
    """Every window begins with a new episode and idles after its end."""
    since: Since = Since.EPISODE
    """Where the steps of the interval are counted from."""

    def start(self) -> Clock:
        """The first step of every pair begins an episode."""
        # Four arrays, not one: a caller may donate the state, and no buffer can be donated twice.
        return Clock(*(jnp.zeros((self.pairs,), jnp.int32) for _ in Clock._fields))

    def slots(self, problem: Problem) -> int:
        """The most noise blocks that a pair can meet in a window, the running one included."""
        episodes = 1 if self.whole else -(-self.window // problem.min_horizon)
        draws = 0 if self.interval is None else -(-self.window // self.interval)
        cut = 0 if self.phases is Phases.LOCKSTEP else 1
        return 1 + episodes + draws + cut

    def plan(self, problem: Problem, clock: Clock, data_keys: Key[Array, " N"]) -> Plan:
        """The next window of every pair, whose episodes belong to `data_keys`."""
        keys = self.episode_keys(problem, clock, data_keys)
        after, ticks = self.ticks(problem, clock, keys, data_keys)
        pair = jnp.arange(self.pairs)
        episode_keys = keys[pair[None], ticks.episode - clock.episode[None]]
        return Plan(after, ticks, episode_keys, jax.vmap(jax.vmap(step_key))(episode_keys, ticks.t))

    def episode_keys(self, problem: Problem, clock: Clock, data_keys: Key[Array, " N"]) -> Key[Array, "N slots"]:
        """Keys of the running episode of every pair and of those it can meet in a window."""
        episodes = clock.episode[:, None] + jnp.arange(self.slots(problem))[None]
        return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(data_keys, episodes)

    def ticks(
        self, problem: Problem, clock: Clock, keys: Key[Array, "N slots"], data_keys: Key[Array, " N"]
    ) -> tuple[Clock, Tick]:
        """Clock after the window, and what every pair does at each of its W steps: fields [W, N]."""
        pair = jnp.arange(self.pairs, dtype=jnp.int32)
        horizons = jax.vmap(jax.vmap(problem.horizon))(keys)
        if self.phases is not Phases.LOCKSTEP:
            if self.phases is Phases.SPREAD:
                cut = -(-horizons * (pair + 1)[:, None] // self.pairs)
            elif self.phases is Phases.SPREAD_OVER_MESH:
                first, total = jax.lax.axis_index(AXIS) * self.pairs, jax.lax.axis_size(AXIS) * self.pairs
                cut = -(-horizons * (first + pair + 1)[:, None] // total)
            else:
                part = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, PHASE)))(data_keys)
                cut = 1 + jnp.floor(part[:, None] * horizons).astype(jnp.int32)
                cut = jnp.minimum(cut, horizons)
            first = clock.episode[:, None] + jnp.arange(keys.shape[1])[None] == 1
            horizons = jnp.where(first, cut, horizons)
        before = clock

        def one(carry: tuple[Clock, Array], k: Array) -> tuple[tuple[Clock, Array], Tick]:
            clock, slot = carry
            begins = jnp.broadcast_to(k == 0, slot.shape) if self.whole else clock.t >= clock.horizon
            episode = clock.episode + begins
            t = jnp.where(begins, 0, clock.t)
            horizon = jnp.where(begins, horizons[pair, episode - before.episode], clock.horizon)
            counted = t < horizon
            since = k if self.since is Since.WINDOW else t
            due = False if self.interval is None else since % self.interval == 0
            redraws = counted & ((t == 0) | due)
            slot = slot + redraws
            tick = Tick(t, episode, begins, redraws, slot, counted, horizon)
            return (Clock(t + 1, horizon, episode, clock.block + redraws), slot), tick

        slot = jnp.zeros((self.pairs,), jnp.int32)
        (clock, _), ticks = jax.lax.scan(one, (clock, slot), jnp.arange(self.window))
        return clock, ticks
