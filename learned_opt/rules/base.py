"""What every rule shares: the interface, the checks, and the walk over the tensors of a tree."""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from learned_opt import low_rank
from learned_opt.errors import InputError

PyTree = Any


@runtime_checkable
class Rule(Protocol):
    """A learned-optimizer architecture: a frozen dataclass of settings, without weights."""

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        ...

    def init(self, key: Array) -> Any:
        """Weights before meta-training: a pytree of float32 arrays."""
        ...

    def transform(
        self, theta: Any, *, num_steps: int | Int[Array, ""] | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with weights `theta` for a training run of `num_steps` updates."""
        ...


def check_settings(rule: Any, *, integers: Mapping[str, int] = MappingProxyType({}), finite: tuple[str, ...]) -> None:
    """Check settings of a rule: whole numbers, each with the least it may be, and finite numbers.

    Raises:
      InputError: naming the setting, its value and what was expected.
    """
    for name, least in integers.items():
        value = getattr(rule, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"setting {name} is {value!r}: expected a whole number, at least {least}")
    for name in finite:
        value = getattr(rule, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"setting {name} is {value!r}: expected a finite number")


def check_theta(rule: Rule, theta: Any) -> None:
    """Check that weights are of this rule: same tree, same shapes.

    Raises:
      InputError: naming the first leaf that differs.
    """
    expected, found = _shapes(template(rule)), _shapes(theta)
    if expected != found:
        odd = sorted({name for name, _ in expected.items() ^ found.items()})[0]
        raise InputError(
            f"theta is not of rule {rule!r}: leaf {odd!r} has shape {found.get(odd, 'none')}, expected "
            f"{expected.get(odd, 'none')}; take theta from this rule's init, or the rule that made it"
        )
    if jax.tree.structure(template(rule)) != jax.tree.structure(theta, is_leaf=low_rank.is_leaf):
        raise InputError(
            f"theta is not of rule {rule!r}: a {type(theta).__name__} with the same leaves, expected the named tuples "
            "that its init makes"
        )


@cache
def template(rule: Rule) -> Any:
    """Shapes and dtypes of the weights of a rule, in its tree."""
    # The key is made inside, or the first program that is traced in a process would make it too, and others not.
    return jax.eval_shape(lambda: rule.init(jax.random.key(0)))


def _shapes(theta: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(theta, is_leaf=low_rank.is_leaf)[0]
    shape = lambda leaf: leaf.shape if low_rank.is_leaf(leaf) else jnp.shape(leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): shape(leaf) for path, leaf in leaves}


def check_num_steps(num_steps: Any, *, needed: bool) -> None:
    """Check the length of the training run: a whole number of updates, at least 1; an array is taken as it is.

    Raises:
      InputError: it is something else, or `needed` and None.
    """
    if isinstance(num_steps, jax.Array) or (num_steps is None and not needed):
        return
    if isinstance(num_steps, np.ndarray | np.generic) and num_steps.ndim == 0:
        num_steps = num_steps.item()
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or num_steps < 1:
        raise InputError(
            f"num_steps is {num_steps!r}: expected the number of updates of the training run, an integer of at least "
            "1; give num_steps=..."
        )


def check_params(params: PyTree) -> None:
    """Check that parameters are arrays of real floating numbers.

    Raises:
      InputError: naming the first leaf that is not.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            hint = (
                "give its two parts (optax.contrib.split_real_and_imaginary does, but passes on no loss)"
                if jnp.issubdtype(dtype, jnp.complexfloating)
                else "leave it out with optax.masked or optax.partition"
            )
            name = jax.tree_util.keystr(path) or "the only leaf"
            raise InputError(f"parameter {name} has dtype {dtype}: expected float32, bfloat16, …; {hint}")


def check_gradients(updates: PyTree, params: PyTree) -> None:
    """Check that every gradient is real and of the shape of its parameter.

    Raises:
      ValueError: no tree like the parameters, or naming the first parameter whose gradient has another shape.
      InputError: naming the first whose gradient is complex.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    try:
        gradients = tree.flatten_up_to(updates)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the gradients are no tree like the parameters, {jax.tree.structure(updates)} for {tree}: call "
            "update(grads, state, params) with the gradient of a loss of params"
        ) from error
    for (path, p), g in zip(leaves, gradients, strict=True):
        name = jax.tree_util.keystr(path) or "the only one"
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(
                f"a gradient of shape {jnp.shape(g)} for parameter {name} of shape {jnp.shape(p)}: they must match"
            )
        if jnp.iscomplexobj(g):
            raise InputError(f"the gradient of parameter {name} is complex: expected real numbers")


def unshared(state: PyTree, theta: PyTree) -> PyTree:
    """The state with copies of the arrays that it shares with theta or holds twice: only so can it be donated."""
    seen = {id(x) for x in jax.tree.leaves(theta)}

    def leaf(x: Array) -> Array:
        if id(x) in seen:
            return jnp.array(x, copy=True)
        seen.add(id(x))
        return x

    return jax.tree.map(leaf, state)


def require_params(params: PyTree) -> None:
    """Check that `update` was given the parameters.

    Raises:
      ValueError: `params` is None.
    """
    if params is None:
        raise ValueError("params is None: a learned optimizer reads the parameters, call update(grads, state, params)")


def require_value(rule: str, value: Any, name: str = "value", what: str = "training") -> Float[Array, ""]:
    """A loss that `update` was given, in float32.

    Args:
      rule: that reads it.
      value: the loss.
      name: of the argument.
      what: kind of loss.

    Raises:
      ValueError: it is None or not a scalar.
      TypeError: it is no real number.
    """
    if value is None:
        raise ValueError(
            f"{name} is None: {rule} reads the {what} loss, call update(grads, state, params, {name}=loss)"
        )
    try:
        value = jnp.asarray(value, jnp.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {value!r}: expected the {what} loss, a real scalar") from error
    if value.shape:
        raise ValueError(f"{name} has shape {value.shape}: expected the {what} loss, a scalar")
    return value


def finite(g: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What every rule makes of a gradient: entries that are not finite count as 0, others are clipped to +-1e15.

    One bad entry would stay in the running statistics of its tensor for ever. The bound keeps squares in float32.
    """
    return jnp.where(jnp.isfinite(g), jnp.clip(g, -1e15, 1e15), 0.0)


def map_tensors(
    tensor: Callable[..., tuple[Array, Any]] | list[Callable[..., tuple[Array, Any]]],
    static: Any,
    shared: PyTree,
    own: PyTree,
    updates: PyTree,
    params: PyTree,
    state: PyTree,
) -> tuple[PyTree, PyTree]:
    """Apply `tensor` to every tensor of a tree: `tensor(static, shared, own, g, p, state) -> (step, state)`.

    It sees g and p in float32, g after `finite`, and a scalar as shape (1,). Tensors without elements are left alone.

    Args:
      tensor: a method of a rule, told from others by the rule's settings, or a function; or one for each tensor.
      static: anything hashable, handed through.
      shared: arrays handed to all tensors.
      own: arrays whose leading axis runs over the tensors, in the order of the leaves.
      updates: gradients, a tree like `params`.
      params: the parameters.
      state: a tree of trees like `params`; `tensor` sees the arrays of one tensor in the place of the inner trees.

    Returns:
      Steps in the dtypes of the parameters, and the new state.
    """
    tree = jax.tree.structure(params)
    if not tree.num_leaves:
        return updates, state
    check_gradients(updates, params)
    gradients, parameters = tree.flatten_up_to(updates), tree.flatten_up_to(params)
    states, join = per_tensor(tree, state)
    arguments = [*zip(gradients, parameters, states, strict=True)]
    each = tensor if isinstance(tensor, list) else [tensor] * tree.num_leaves
    statics = [(*_by_value(one), static) for one in each]
    results = over_tensors(_update_tensor, statics, shared, own, arguments)
    return tree.unflatten([step for step, _ in results]), join([new for _, new in results])


def per_tensor(tree: Any, state: PyTree) -> tuple[list[PyTree], Callable[[list[PyTree]], PyTree]]:
    """Turn a tree of trees of structure `tree` inside out: one entry for each tensor; and the way back.

    Raises:
      ValueError: its trees have another structure.
    """
    kinds = jax.tree.structure(state, is_leaf=lambda x: jax.tree.structure(x) == tree)
    if jax.tree.structure(state) != kinds.compose(tree):
        raise ValueError(f"the optimizer's state is that of other parameters than {tree}: make it with init(params)")
    split = tree.flatten_up_to(jax.tree.transpose(kinds, tree, state))
    return split, lambda entries: jax.tree.transpose(tree, kinds, tree.unflatten(entries))


def over_tensors(f: Callable[..., Any], static: Any, shared: PyTree, own: PyTree, arguments: list[Any]) -> list[Any]:
    """`f(static, shared, own[i], *arguments[i])` for every tensor i; for equal shapes it is traced once.

    `static` is hashable, or a list with an entry for each tensor.
    """
    mine = lambda i: jax.tree.map(lambda x: x[i], own)
    statics = static if isinstance(static, list) else [static] * len(arguments)
    each = enumerate(zip(statics, arguments, strict=True))
    return [_one_tensor(f, static, shared, mine(i), argument) for i, (static, argument) in each]


def numbers(params: PyTree, tree: PyTree) -> Float[Array, " tensors"] | None:
    """The numbers of `tree`, one for each tensor, in the order of the leaves; None if it is None."""
    leaves = jax.tree.structure(params).flatten_up_to(tree) if tree is not None else []
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in leaves]) if leaves else None


@partial(jax.jit, static_argnums=(0, 1))
def _one_tensor(f: Callable[..., Any], static: Any, shared: Any, own: Any, arguments: Any) -> Any:
    return f(static, shared, own, *arguments)


def _by_value(f: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A method as its function and its object: equal rules are then equal, and traced once."""
    owner = getattr(f, "__self__", None)
    return (f, ()) if owner is None else (getattr(f, "__func__"), (owner,))  # noqa: B009


def _update_tensor(
    rule: tuple[Callable[..., tuple[Array, Any]], tuple[Any, ...], Any],
    shared: Any,
    own: Any,
    g: Array,
    p: Array,
    state: Any,
) -> tuple[Array, Any]:
    tensor, owner, static = rule
    if not p.size:
        return jnp.zeros_like(p), state
    # A scalar is handled as a vector of one: a trailing axis for it and its statistics.
    lift = lambda x: x[..., None] if p.ndim == 0 else x
    flat = (finite(lift(g).astype(jnp.float32)), lift(p).astype(jnp.float32), jax.tree.map(lift, state))
    step, new = tensor(*owner, static, shared, own, *flat)
    back = lambda x, old: x.reshape(old.shape).astype(old.dtype)
    return step.reshape(p.shape).astype(p.dtype), jax.tree.map(back, new, state)
