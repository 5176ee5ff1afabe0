"""Saving, finding and refusing weights."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rule_table
import safetensors.numpy

import learned_opt
from learned_opt import pretrained
from learned_opt.errors import InputError, WeightsError

CARD = {
    "recipe": {"steps": 3},
    "data": {"family": "digits-mlp"},
    "seed": 0,
    "horizons": {"low": 5, "high": 9},
    "sizes": {"low": 10, "high": 20},
    "results": {},
}
RULE = learned_opt.SmallFC(hidden=5, step_mult=0.25)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pretrained.save_pretrained(tmp_path / "run", RULE, RULE.init(jax.random.key(1)), CARD)
    return tmp_path / "run"


def test_round_trip(saved: Path) -> None:
    loaded = learned_opt.load_pretrained(saved)
    assert loaded.rule == RULE
    jax.tree.map(np.testing.assert_array_equal, loaded.theta, RULE.init(jax.random.key(1)))
    assert {field: loaded.card[field] for field in CARD} == CARD
    assert loaded.card["weights"]["count"] == sum(x.size for x in jax.tree.leaves(loaded.theta))
    assert {"format", "versions", "licence"} <= set(loaded.card)


def test_transform_uses_the_weights_and_settings(saved: Path) -> None:
    params = {"w": jnp.ones((4, 3))}
    opt, plain = learned_opt.from_pretrained(saved, 50), RULE.transform(RULE.init(jax.random.key(1)))
    got, _ = opt.update(params, opt.init(params), params)
    want, _ = plain.update(params, plain.init(params), params)
    np.testing.assert_array_equal(got["w"], want["w"])
    assert float(jnp.abs(got["w"]).max()) > 0


def test_every_release_loads_and_tells_of_itself() -> None:
    names = learned_opt.list_pretrained()
    assert "small-fc-digits" in names
    for name in names:
        loaded = learned_opt.load_pretrained(name)
        params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
        opt = loaded.transform(100)
        updates, _ = opt.update(params, opt.init(params), params, value=jnp.float32(1.0))
        assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves(updates))
        assert loaded.card["results"] and loaded.card["recipe"] and loaded.card["licence"] == "Apache-2.0"


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def edit_card(folder: Path, change: Any) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(WeightsError) as error:
        learned_opt.from_pretrained("small-fc-digts")
    assert "did you mean 'small-fc-digits'" in one_line(error)


def test_no_name_lists_the_releases() -> None:
    with pytest.raises(WeightsError, match="'' is no name and no folder: released: celo2-expert, helm") as error:
        learned_opt.from_pretrained("")
    one_line(error)


def test_truncated_weights(saved: Path) -> None:
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(WeightsError, match=r"sha256.*truncated or belongs to other weights"):
        learned_opt.from_pretrained(saved)


def test_weights_that_are_no_safetensors(saved: Path) -> None:
    import hashlib

    data = b"not weights"
    (saved / "weights.safetensors").write_bytes(data)
    edit_card(saved, lambda card: card["weights"].update(sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        learned_opt.from_pretrained(saved)


def test_missing_weights(saved: Path) -> None:
    (saved / "weights.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        learned_opt.from_pretrained(saved)


def test_weights_of_other_settings(saved: Path) -> None:
    edit_card(saved, lambda card: card["rule"]["settings"].update(hidden=6))
    with pytest.raises(WeightsError) as error:
        learned_opt.from_pretrained(saved)
    assert "belong to another rule or other settings" in one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["rule"].update(name="small_cf"), "unknown rule 'small_cf': did you mean 'small_fc'"),
        (lambda card: card["rule"]["settings"].update(hiden=1), "no setting 'hiden': did you mean 'hidden'"),
        (lambda card: card.update(format="learned_opt/9"), "format 'learned_opt/9', expected 'learned_opt/1'"),
        (lambda card: card["rule"]["settings"].update(hidden=-3), "hidden is -3: expected a whole number"),
        (lambda card: card.pop("weights"), "is not a card"),
        (lambda card: card.pop("recipe"), "is not a card"),
        (lambda card: card["rule"].update(name=["x"]), "is not a card"),
        (lambda card: card["weights"].update(sha256=None), "is not a card"),
    ],
)
def test_cards_that_do_not_fit(saved: Path, change: Any, message: str) -> None:
    edit_card(saved, change)
    with pytest.raises(WeightsError, match=message) as error:
        learned_opt.from_pretrained(saved)
    one_line(error)


def test_weights_in_another_order_of_memory_come_back(tmp_path: Path) -> None:
    theta = jax.tree.map(np.asfortranarray, RULE.init(jax.random.key(5)))
    assert not all(x.flags.c_contiguous for x in jax.tree.leaves(theta))
    pretrained.save_pretrained(tmp_path, RULE, theta, dict.fromkeys(pretrained.CARD_FIELDS, ""))
    jax.tree.map(np.testing.assert_array_equal, pretrained.load_pretrained(tmp_path).theta, theta)


def test_card_that_is_no_json(saved: Path) -> None:
    (saved / "card.json").write_text('{"format": ')
    with pytest.raises(WeightsError, match="is not a card"):
        learned_opt.from_pretrained(saved)


def test_folder_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no card\.json"):
        learned_opt.from_pretrained(tmp_path)


def test_save_wants_every_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="card fields seed"):
        pretrained.save_pretrained(
            tmp_path, RULE, RULE.init(jax.random.key(0)), {k: v for k, v in CARD.items() if k != "seed"}
        )


def test_weights_are_plain_named_tensors(saved: Path) -> None:
    tensors = safetensors.numpy.load_file(saved / "weights.safetensors")
    assert tensors["layers/0/w"].shape == (39, 5)
    assert set(tensors) >= {"momentum_decays", "rms_decays", "factored_decays", "layers/2/b"}


def test_warns_beyond_what_the_weights_have_seen(tmp_path):
    """Of steps only where the rule reads them, and never where the card states no range."""
    rule, ranges = learned_opt.Helm(hidden=2), {"horizons": {"low": 5, "high": 100}, "sizes": {"low": 1, "high": 12}}
    card = dict.fromkeys(pretrained.CARD_FIELDS, "")
    pretrained.save_pretrained(tmp_path / "known", rule, rule.init(jax.random.key(0)), card | ranges)
    pretrained.save_pretrained(tmp_path / "unknown", rule, rule.init(jax.random.key(0)), card)
    pretrained.save_pretrained(tmp_path / "blind", RULE, RULE.init(jax.random.key(0)), card | ranges)
    params = lambda n: {"w": jnp.zeros((n,))}
    learned_opt.from_pretrained(tmp_path / "known", 100).init(params(12))
    learned_opt.from_pretrained(tmp_path / "unknown", 10_000).init(params(13))
    assert rule_table.READS_STEPS == pretrained.rules.READ_NUM_STEPS
    blind = learned_opt.from_pretrained(tmp_path / "blind", 10_000)
    with pytest.warns(UserWarning, match="num_steps 101: .* of up to 100 steps"):
        learned_opt.from_pretrained(tmp_path / "known", 101)
    with pytest.warns(UserWarning, match="num_steps is not given, and helm .*: 10000 is taken") as warned:
        learned_opt.from_pretrained(tmp_path / "known")
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="num_steps is not given") as warned:
        learned_opt.load_pretrained(tmp_path / "known").transform()
        learned_opt.from_pretrained(tmp_path / "known")
    assert [w.filename for w in warned] == [__file__] * 2
    learned_opt.from_pretrained(tmp_path / "blind")
    for init in (blind.init, jax.jit(blind.init), optax.chain(blind, optax.scale(1.0)).init):
        with pytest.warns(UserWarning, match="13 parameters: .* models of up to 12") as warned:
            init(params(13))
        assert [w.filename for w in warned] == [__file__]
