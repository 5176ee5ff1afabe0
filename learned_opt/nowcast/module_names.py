"""Roles of the modules of transformers, by the names that Haiku, Flax and Hugging Face's Flax models give them."""

import re

from learned_opt.errors import InputError
from learned_opt.nowcast.draft import natural

_ATTENTION = r"(?:\w*attn|\w*attention|\w*Attention_\d+)"
_PERCEPTRON = r"(?:mlp|ffn|feed_forward|\w*M[lL][pP]\w*_\d+)"
BLOCK = r"(?:h|\w*layers?|\w*blocks?|\w*Block|\w*Layer)[/_](\d+)/(.+)"
ROLES = {
    "norm_1": r"ln_?1|norm_?1|LayerNorm_0|RMSNorm_0|layer_norm|rms_norm|input_layernorm|attn_norm|attention_norm",
    "qkv": rf"{_ATTENTION}/(?:c_attn|qkv|qkv_proj)",
    "query": rf"{_ATTENTION}/(?:query|q_proj|wq|q)",
    "key": rf"{_ATTENTION}/(?:key|k_proj|wk|k)",
    "value": rf"{_ATTENTION}/(?:value|v_proj|wv|v)",
    "out": rf"{_ATTENTION}/(?:out|o_proj|out_proj|c_proj|wo|o|linear)",
    "norm_2": r"ln_?2|norm_?2|LayerNorm_1|RMSNorm_1|layer_norm_1|rms_norm_1|post_attention_layernorm|mlp_norm|ffn_norm",
    "gate": rf"(?:{_PERCEPTRON}/)?(?:gate_proj|gate|w1)",
    "up": rf"(?:{_PERCEPTRON}/)?(?:c_fc|up_proj|up|w3|fc_?1|fc_in|Dense_0|linear|linear_0)",
    "down": rf"(?:{_PERCEPTRON}/)?(?:c_proj|down_proj|down|w2|fc_?2|fc_out|Dense_1|linear_1)",
    "tokens": r"(?:.*/)?(?:wte|embed_tokens|tok_embeddings|token_embeddings?|token|tokens|embed|Embed_0)",
    "positions": r"(?:.*/)?(?:wpe|position_embeddings?|position|positions|pos_embed|Embed_1)",
    "norm": r"(?:.*/)?(?:ln_f|norm|final_norm|final_layer_norm|layer_norm|LayerNorm_0|RMSNorm_0)",
    "logits": r"(?:.*/)?(?:lm_head|logits|output|head|Dense_0)",
}
"""Role -> names of modules, within a block or, the last four, outside."""
OUTSIDE = ("tokens", "positions", "norm", "logits")
FLAT = {"multi_head_attention": 1, "qkv": 1, "attention_output": 1, "layer_norm": 2, "linear": 2, "mlp": 1}
"""Modules that Haiku numbers through all blocks -> how many a block has."""


def recognise(modules: list[str]) -> dict[str, str]:
    """Role -> module, for those whose names are known.

    Raises:
      InputError: two modules for one role.
    """
    names: dict[str, str] = {}
    flat = _flat(modules)
    for module in modules:
        plain = flat.get(module, module.replace("/~", ""))
        block = re.search(rf"(?:^|/){BLOCK}$", plain)
        inner, text = (f"{int(block[1])}/", block[2]) if block else ("", plain)
        for role, pattern in ROLES.items():
            if (role in OUTSIDE) == (not block) and re.fullmatch(pattern, text):
                if inner + role in names:
                    raise InputError(
                        f"modules {names[inner + role]!r} and {module!r} both look like role {inner + role!r}: "
                        "give names={role: module}"
                    )
                names[inner + role] = module
                break
    return names


def _flat(modules: list[str]) -> dict[str, str]:
    """Modules that are numbered through all blocks -> names as if in blocks; empty where the numbers do not fit."""
    owners: dict[str, list[str]] = {kind: [] for kind in FLAT}
    found = []
    for module in modules:
        if m := re.fullmatch(rf"((?:.*?/)??({'|'.join(FLAT)})(?:_\d+)?)((?:/~)?/\w+)?", module):
            found.append((module, m[1], m[2], (m[3] or "").replace("/~", "")))
            owners[m[2]] += [m[1]] if m[1] not in owners[m[2]] else []
    for each in owners.values():
        each.sort(key=natural)
    depth = max(len(owners["multi_head_attention"]), len(owners["qkv"]))
    fits = all(len(owners[kind]) in (0, each * depth, each * depth + each // 2) for kind, each in FLAT.items())
    if not depth or not fits or bool(owners["linear"]) == bool(owners["mlp"]):
        return {}
    flat = {}
    for module, owner, kind, rest in found:
        n, part = divmod(owners[kind].index(owner), FLAT[kind])
        if n < depth:
            inner = {"qkv": "attention/qkv", "attention_output": "attention/out"}.get(kind, kind)
            flat[module] = f"block_{n}/{inner}{f'_{part}' if part else ''}{rest}"
        elif kind in ("linear", "layer_norm"):
            flat[module] = "logits" if kind == "linear" else "norm"
    return flat
