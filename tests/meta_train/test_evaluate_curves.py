"""Windows, and figures that do not depend on how many there are."""

import numpy as np
from judge_toy import ADAM, MINE, summarize
from judge_toy import curves as straight

from meta_train.evaluate import curves
from meta_train.evaluate.summary import BEST


def test_windows_average_long_curves():
    losses = np.arange(600, dtype=np.float32).reshape(1, 1, 600)
    found = curves.windows(losses)
    assert found["loss"].shape == (1, 1, 200)
    np.testing.assert_array_equal(found["step"], 3 * np.arange(200))
    np.testing.assert_allclose(found["loss"][0, 0], 3 * np.arange(200) + 1)
    # 251 steps: windows of two, and the last step alone.
    found = curves.windows(losses[..., :251])
    assert found["loss"].shape == (1, 1, 126)
    assert found["loss"][0, 0, -1] == 250.0
    # Up to 250 steps nothing is lost.
    np.testing.assert_array_equal(curves.windows(losses[..., :250])["loss"], losses[..., :250])


def test_windows_keep_what_is_not_finite_where_it_is():
    losses = np.ones((1, 1, 500), np.float32)
    losses[0, 0, 400] = np.inf
    losses[0, 0, 401:] = np.nan
    loss = curves.windows(losses)["loss"][0, 0]
    assert np.isfinite(loss[:200]).all() and not np.isfinite(loss[200:]).any()


def test_windows_of_windows_are_the_windows_of_the_steps():
    losses = np.random.default_rng(0).normal(size=(2, 3, 999))
    stored = curves.windows(losses)
    step, loss = curves.coarser(stored["step"], stored["loss"], 999)
    assert len(stored["step"]) == 250 and len(step) == 84 and loss.shape == (2, 3, 84)
    expected = np.stack([losses[..., s : s + 12].mean(axis=-1) for s in range(0, 999, 12)], axis=-1)
    np.testing.assert_array_equal(step, np.arange(0, 999, 12))
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    again = curves.coarser(step, loss, 999)
    assert again[0] is step and again[1] is loss


def test_speed_ups_do_not_depend_on_the_points_that_are_kept():
    """Those of a fresh run, and those of an archived one."""

    def found(task, name, kept):
        group = ADAM if name == "adam" else MINE
        rng, steps = np.random.default_rng(len(name)), np.arange(2000)
        ends = straight(group)["loss"][..., -1:]
        loss = ends * (1.0 + 30.0 / (3.0 + steps)) * rng.lognormal(0.0, 0.2, (*ends.shape[:2], 2000))
        stored = curves.windows(loss)
        step, loss = kept(stored["step"], stored["loss"], 2000)
        return straight(group) | {"step": step, "loss": loss}

    def value(kept):
        long = [[row | {"steps": 2000} for row in group] for group in (ADAM, MINE)]
        summary = summarize(*long, curves=lambda task, name: found(task, name, kept))
        return summary.per_task["t"]["mine"].budgets[3].speedup[BEST].value

    assert value(lambda step, loss, steps: (step, loss)) == value(curves.coarser) != 1.0
