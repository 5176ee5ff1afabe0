import fcntl
import json

import numpy as np
import pytest

from learned_opt.errors import InputError
from meta_train.evaluate import curves, store

CONFIGURATION = {
    "steps": 3,
    "seeds": 2,
    "tasks": ["t"],
    "optimizers": {"a": {"kind": "baseline", "trials": [{}, {}]}, "x/b": {"kind": "learned", "trials": [{}]}},
}
RUNS = {("t", "a"): 4, ("t", "x/b"): 2}
SCALARS = dict.fromkeys(("compile_seconds", "state_bytes", "param_bytes"), np.float64(1.0))
VALID = {"valid_loss": np.ones((2, 2, 2), np.float32), "valid_step": np.array([0, 3])}
CURVES = {**curves.windows(np.ones((2, 2, 3), np.float32)), **VALID, **SCALARS}


def group(optimizer, n):
    rest = dict.fromkeys(sorted(store.FIELDS), 0)
    return [rest | {"task": "t", "optimizer": optimizer, "trial": i // 2, "seed": i % 2} for i in range(n)]


def fill(out):
    with store.opened(out, CONFIGURATION) as results:
        for (_, name), n in RUNS.items():
            if ("t", name) not in results.groups:
                results.add(group(name, n), CURVES)
        return dict(results.groups)


def test_results_come_back(tmp_path):
    groups = fill(tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    with store.opened(tmp_path, CONFIGURATION) as results:
        assert results.groups == groups
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert len(before.splitlines()) == 6


def test_rows_that_lack_a_field_and_damaged_curves_are_run_again(tmp_path):
    fill(tmp_path)
    path = tmp_path / "results.jsonl"
    first, *rest = path.read_text().splitlines()
    lacking = {name: value for name, value in json.loads(first).items() if name != "mean_train_loss"}
    path.write_text("\n".join([json.dumps(lacking), *rest]) + "\n")
    curves = store.curves_path(tmp_path, "t", "x/b")
    curves.write_bytes(curves.read_bytes()[:-30])
    with store.opened(tmp_path, CONFIGURATION) as results:
        assert results.groups == {}


def test_losses_that_are_no_numbers_are_run_again(tmp_path):
    fill(tmp_path)
    path = tmp_path / "results.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | {"final_train_loss": "x"}), *rest]) + "\n")
    with store.opened(tmp_path, CONFIGURATION) as results:
        assert list(results.groups) == [("t", "x/b")]


@pytest.mark.parametrize("content", ["[]", "{}", '{"optimizers": 3}'])
def test_a_configuration_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(InputError, match="is not the configuration"), store.opened(tmp_path, CONFIGURATION):
        pass


def test_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "weights.safetensors").write_text("")
    with (
        pytest.raises(InputError, match=r"holds weights\.safetensors but no evaluation\.json"),
        store.opened(tmp_path, CONFIGURATION),
    ):
        pass


def test_a_kill_at_any_byte_loses_and_repeats_nothing(tmp_path):
    fill(tmp_path)
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    first = sum(len(line) for line in whole.splitlines(keepends=True)[:4])
    for cut in sorted({*range(0, len(whole), 9), first - 1, first, len(whole) - 1}):
        path.write_bytes(whole[:cut])
        with store.opened(tmp_path, CONFIGURATION) as results:
            # The last newline carries no information: without it the group is there in full.
            assert len(results.groups) == (cut >= first - 1) + (cut >= len(whole) - 1)
            assert path.read_bytes() == whole[: first if cut >= first - 1 else 0] + whole[first:] * (
                cut >= len(whole) - 1
            )
        fill(tmp_path)
        assert path.read_bytes() == whole


def test_a_group_without_its_curves_is_run_again(tmp_path):
    fill(tmp_path)
    store.curves_path(tmp_path, "t", "a").unlink()
    with store.opened(tmp_path, CONFIGURATION) as results:
        assert list(results.groups) == [("t", "x/b")]


def test_a_file_of_something_else_between_the_lines_is_dropped(tmp_path):
    fill(tmp_path)
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"[1]\n\x00\x00\n" + whole)
    with store.opened(tmp_path, CONFIGURATION):
        assert path.read_bytes() == whole


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    fill(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    optimizers = {"a": {"kind": "learned", "trials": [{}]}, "c": {"kind": "learned", "trials": [{}]}}
    asked = {"steps": 5, "seeds": 2, "tasks": ["t"], "suite": "s", "optimizers": optimizers}
    with pytest.raises(InputError) as caught, store.opened(tmp_path, asked):
        pass
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message and "--out" in message
    assert "steps: 3 there, 5 asked" in message
    assert 'suite: "absent" there, "s" asked' in message
    assert 'optimizers.a.kind: "baseline" there, "learned" asked' in message
    assert "x/b" not in message and "optimizers.c" not in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_settings_of_any_length_are_told_in_a_few_words(tmp_path):
    fill(tmp_path)
    trials = lambda *rates: {"a": {"kind": "baseline", "trials": [{"learning_rate": rate} for rate in rates]}}
    asked = CONFIGURATION | {"theta_sha256": 64 * "f", "optimizers": trials(0.1, 0.2, 0.3)}
    with pytest.raises(InputError) as caught, store.opened(tmp_path, asked):
        pass
    assert "optimizers.a.trials: 2 of them there, 3 of them asked" in str(caught.value)
    assert 'theta_sha256: "absent" there, "ffffffff…" asked' in str(caught.value)
    asked = CONFIGURATION | {"optimizers": trials(0.1, 0.2)}
    with pytest.raises(InputError, match="2 of them there, other ones 2 of them asked"), store.opened(tmp_path, asked):
        pass


def test_a_task_of_other_data_is_named_with_them(tmp_path):
    before = CONFIGURATION | {"fingerprints": {"t": "1" * 64, "u": "2" * 64}}
    with store.opened(tmp_path, before):
        pass
    after = before | {"fingerprints": {"t": "3" * 64, "u": "2" * 64}}
    subjects = {"t": "t (data set mnist)", "u": "u"}
    with pytest.raises(InputError) as caught, store.opened(tmp_path, after, subjects=subjects):
        pass
    message = str(caught.value)
    assert "(data or settings of t (data set mnist) are not what they were); choose another --out" in message
    assert "bring back the data of then to resume" in message and "333" not in message and "\n" not in message


def test_other_optimizers_are_added(tmp_path):
    groups = fill(tmp_path)
    asked = CONFIGURATION | {"optimizers": {"c": {"kind": "learned", "trials": [{}]}}}
    with store.opened(tmp_path, asked) as results:
        assert results.groups == groups
        results.add(group("c", 2), CURVES)
    assert list(json.loads((tmp_path / "evaluation.json").read_text())["optimizers"]) == ["a", "x/b", "c"]
    with store.opened(tmp_path, CONFIGURATION) as results:
        assert set(results.groups) == {*groups, ("t", "c")}


def test_groups_that_cannot_be_used_are_dropped_if_they_are_asked_for(tmp_path):
    fill(tmp_path)
    asked = CONFIGURATION | {"optimizers": {"a": CONFIGURATION["optimizers"]["a"]}}
    with store.opened(tmp_path, asked, usable=lambda rows: False) as results:
        assert set(results.groups) == {("t", "x/b")}
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2


def test_rows_are_amended(tmp_path):
    groups = fill(tmp_path)
    with store.opened(tmp_path, CONFIGURATION) as results:
        results.amend({("t", "a"): [row | {"more": 1} for row in groups["t", "a"]]})
    with store.opened(tmp_path, CONFIGURATION) as results:
        assert all(row["more"] == 1 for row in results.groups["t", "a"])
        assert results.groups["t", "x/b"] == groups["t", "x/b"]


def test_results_of_something_else_are_not_touched(tmp_path):
    (tmp_path / "results.jsonl").write_text("precious\n")
    with pytest.raises(InputError, match=r"no evaluation\.json"), store.opened(tmp_path, CONFIGURATION):
        pass
    assert (tmp_path / "results.jsonl").read_text() == "precious\n"


def test_one_evaluation_at_a_time(tmp_path):
    with (
        store.opened(tmp_path, CONFIGURATION),
        pytest.raises(InputError, match="another evaluation"),
        store.opened(tmp_path, CONFIGURATION),
    ):
        pass
    with (tmp_path / ".lock").open() as lock:  # free again
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_out_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out: cannot write to .*file"):
        fill(tmp_path / "file")


def test_curve_files_of_different_optimizers_differ(tmp_path):
    names = ["adam", "runs/a", "runs_a", "../a", "a", "runs/a-1", "x" * 300, "y" + "x" * 299]
    paths = [store.curves_path(tmp_path, "t", name) for name in names]
    assert len(set(paths)) == len(names)
    assert all(path.parent == tmp_path / "curves" / "t" and len(path.name) < 120 for path in paths)
    assert paths[0].name == "adam.npz"


def test_not_a_number_never_reaches_a_file(tmp_path):
    with pytest.raises(ValueError):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
    store.write_json(tmp_path / "x.json", {"a": None})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None}
