"""The wiring of transformers: GPT-style and Llama-style, with grouped queries or not.

For a block with residual stream R before it, M between attention and perceptron, R' after it:

    heads -> Q, heads -> V     one neuron for each head, to the neurons of that head
    query, value   R -> Q, R -> V             key   Q -> R: queries and keys are multiplied, so share their neurons
    out            V -> M      skip R -> M    gate, up   M -> F      down   F -> R'      skip M -> R'
    norms          their neurons -> the stream that they read; biases -> the outputs of their layer

The bias of the keys goes to Q; published networks were trained with it at R (`key_bias="residual"`). V has neurons for
every query head. With grouped queries the keys and values of a group are shared by the edges of its query heads, h of
group h // (heads // kv_heads). Rotary embeddings leave less symmetry within a head than this wiring has.

Modules are recognised by their names (`learned_opt.nowcast.module_names`) in Haiku, Flax and
Hugging Face's Flax models, or given by role.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from learned_opt.errors import InputError
from learned_opt.nowcast.draft import Draft
from learned_opt.nowcast.module_names import recognise
from learned_opt.nowcast.wiring import Kind, Layout, Wiring

PyTree = Any
KEY_BIAS = ("query", "residual")


def transformer(
    params: PyTree,
    *,
    heads: int,
    kv_heads: int | None = None,
    names: Mapping[str, str] | None = None,
    key_bias: str = "query",
    unknown: str = "refuse",
) -> Wiring:
    """The wiring of a decoder-only transformer.

    Args:
      params: its parameters.
      heads: query heads.
      kv_heads: key and value heads; as many by default.
      names: role -> name of the module: "tokens", "positions", "norm", "logits", and "0/query" and so on for block 0,
        with the roles of `module_names.ROLES`; recognised by default. Without "logits" they are those of "tokens".
      key_bias: "query" or "residual", the neurons that a bias of the keys goes to.
      unknown: what becomes of parameters of modules that have no role: "refuse", or "unconnected" with a warning.

    Raises:
      InputError: naming the role, module or parameter that does not fit.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise InputError(f"heads {heads} and kv_heads {kv_heads}: expected numbers above 0, the first a multiple")
    if key_bias not in KEY_BIAS:
        raise InputError(f"key_bias is {key_bias!r}: expected one of {', '.join(KEY_BIAS)}")
    draft = Draft(params)
    names = recognise(draft.modules()) if names is None else dict(names)
    depth = 1 + max((int(role.partition("/")[0]) for role in names if "/" in role), default=-1)
    if "tokens" not in names or not depth:
        raise InputError(f"no module of role {'tokens' if depth else '0/query'!r} found: give names={{role: module}}")
    build = _Transformer(draft, names, heads, kv_heads, key_bias == "residual")
    build.stem()
    for n in range(depth):
        build.block(n)
    build.end()
    return draft.done(unknown)


class _Transformer:
    """The walk over the blocks; `x` is the residual stream so far."""

    def __init__(self, draft: Draft, names: Mapping[str, str], heads: int, kv_heads: int, residual_bias: bool) -> None:
        self.draft, self.names, self.heads, self.kv_heads = draft, names, heads, kv_heads
        self.residual_bias, self.x = residual_bias, ""
        self.transposed = False
        """Whether matrices are [out, in], as in Hugging Face's Flax models with fused queries, keys and values."""

    def stem(self) -> None:
        """Tables of tokens and positions to the stream."""
        draft, paths = self.draft, {role: self.path(role) for role in ("tokens", "positions") if role in self.names}
        for role, path in paths.items():
            draft.group(role, draft.shapes[path][-2])
        self.before_stream(0)
        self.x = draft.group("stream 0", draft.shapes[paths["tokens"]][-1])
        for role, path in paths.items():
            kind, ones = Kind.TOKEN if role == "tokens" else Kind.POSITION, "p " * (len(draft.shapes[path]) - 2)
            draft.wire(path, role, self.x, kind, Layout(f"{ones}i o"))

    def block(self, n: int) -> None:
        """One block, from stream n to the next."""
        draft, r = self.draft, self.x
        self.to(r, self.vectors(f"{n}/norm_1"))
        v = self.attention(n)
        inputs = [role for role in (f"{n}/gate", f"{n}/up") if role in self.names]
        m = self.layer([f"{n}/out"], v, f"stream {n} middle", draft.groups[r], self.vectors(f"{n}/norm_2"), skip=r)
        f = self.layer(inputs, m, f"hidden {n}", self.outputs(f"{n}/up"))
        self.before_stream(n + 1, self.biases(f"{n}/down"))
        self.x = self.layer([f"{n}/down"], f, f"stream {n + 1}", draft.groups[r], skip=m)

    def end(self) -> None:
        """The last norm, and the logits where they have their own weights."""
        self.to(self.x, self.vectors("norm"))
        if "logits" in self.names:
            self.transposed = False
            self.layer(["logits"], self.x, "logits", self.outputs("logits"))

    def attention(self, n: int) -> str:
        """Queries, keys and values of a block; returns the group of the values."""
        draft, roles = self.draft, ("query", "key", "value")
        fused = f"{n}/qkv" in self.names
        paths = dict.fromkeys(roles, self.path(f"{n}/qkv")) if fused else {x: self.path(f"{n}/{x}") for x in roles}
        width = draft.groups[self.x]
        shape = draft.shapes[paths["query"]]
        if fused and self.kv_heads != self.heads:
            raise InputError(f"{paths['query']!r} is fused: expected as many kv_heads as heads, or write its wires")
        if fused and len(shape) == 2:
            self.transposed = shape[1] == width and shape[0] == 3 * shape[1]
        size = math.prod(shape) // width // (3 if fused else 1)
        if size % self.heads:
            raise InputError(f"{paths['query']!r} has {size} queries: expected a multiple of heads, {self.heads}")
        biases = {x: self.biases(f"{n}/qkv" if fused else f"{n}/{x}") for x in roles}
        parts = {x: f":{x}" if fused else "" for x in roles}
        draft.group(f"heads {n}", self.heads)
        for role in roles if not self.residual_bias else ("query", "value"):
            draft.nodes(biases[role], parts[role])
        q, v = (draft.group(f"{name} {n}", size) for name in ("queries", "values"))
        for index, (role, path) in enumerate(paths.items()):
            source, target = {"query": (self.x, q), "key": (q, self.x), "value": (self.x, v)}[role]
            kind = {"query": Kind.QUERY, "key": Kind.KEY, "value": Kind.VALUE}[role]
            letters = "oi" if role == "key" else "io"
            of = str(index) if fused else ""
            layout = self.projection(path, letters, of, size, shared=role != "query")
            draft.wire(path, source, target, kind, layout)
            for bias in biases[role]:
                residual = role == "key" and self.residual_bias
                end, shared = (self.x if residual else q if role != "value" else v), role != "query" and not residual
                draft.vector(bias, end, self.projection(bias, "o", of, size, shared=shared), parts[role])
            if role != "key":
                draft.heads(f"heads {n}", self.heads, target)
        return v

    def projection(self, path: str, letters: str, of: str, size: int, *, shared: bool) -> Layout:
        """Layout of queries, keys or values, [in, heads x size of one]; `letters` of the one and the other.

        `of` is their number in a fused tensor; `shared` ones have kv_heads and not heads.
        """
        shape, heads = self.draft.shapes[path], self.kv_heads if shared else self.heads
        lead = shape[:1] if len(letters) == 2 else ()
        if self.transposed and lead:
            return Layout(f"{of} {letters[1]} {letters[0]}", (3, size, shape[1]))
        each = self.heads // heads
        fused = (3,) if of else ()
        view = (*lead, *fused, heads, 1, size // self.heads)
        if math.prod(view) != math.prod(shape):
            raise InputError(f"{path!r} has shape {shape}: expected {heads} heads of size {size // self.heads}")
        axes = [*letters[: len(lead)], *of, *(letters[-1] * 3)]
        repeat = (1,) * (len(view) - 2) + (each, 1)
        return Layout(" ".join(axes), view, repeat if each > 1 else None)

    def layer(
        self, roles: list[str], source: str, name: str, size: int, norms: Sequence[str] = (), skip: str = ""
    ) -> str:
        """A new group with the matrices of these roles to it, their biases, norms of the group, and a skip."""
        draft, biases = self.draft, [path for role in roles for path in self.biases(role)]
        draft.nodes([*biases, *norms])
        target = draft.group(name, size)
        if skip:
            draft.skip(skip, target)
        for role in roles:
            path = self.path(role)
            axes = ["i"] * (len(draft.shapes[path]) - 1) + ["o"]
            draft.wire(path, source, target, Kind.DENSE, Layout(" ".join(axes[::-1] if self.transposed else axes)))
        self.to(target, [*biases, *norms])
        return target

    def before_stream(self, n: int, biases: Sequence[str] = ()) -> None:
        """Number the neurons of the vectors of stream n before the stream itself."""
        norm = f"{n}/norm_1" if f"{n}/norm_1" in self.names else "norm"
        self.draft.nodes([*biases, *self.vectors(norm)])
        if self.residual_bias and (f"{n}/qkv" in self.names or f"{n}/key" in self.names):
            fused = f"{n}/qkv" in self.names
            self.draft.nodes(self.biases(f"{n}/qkv" if fused else f"{n}/key"), ":key" if fused else "")

    def to(self, target: str, paths: Sequence[str]) -> None:
        """Wire vectors to a group."""
        for path in paths:
            self.draft.vector(path, target)

    def vectors(self, role: str) -> list[str]:
        """The parameters of a norm, which may be missing."""
        return self.draft.leaves(self.names[role]) if role in self.names else []

    def biases(self, role: str) -> list[str]:
        """The vectors of a layer."""
        return self.draft.vectors([self.module(role)])

    def outputs(self, role: str) -> int:
        """Outputs of the matrix of a role."""
        return self.draft.shapes[self.path(role)][0 if self.transposed else -1]

    def path(self, role: str) -> str:
        """The matrix of a role."""
        weight = self.draft.weight(self.module(role))
        if weight is None:
            raise InputError(f"module {self.names[role]!r} of role {role!r} has no matrix: give names={{role: module}}")
        return weight

    def module(self, role: str) -> str:
        """The module of a role."""
        if role not in self.names:
            raise InputError(f"no module of role {role!r} found: give names={{role: module}}, or write the wires")
        return self.names[role]
