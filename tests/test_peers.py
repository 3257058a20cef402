"""The peers: their laws and bounds are right, and they agree with the examples."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import example_data
import pytest
from scipy import stats

import reproduction
import results_page
from benchmarks.peers import compare
from results_page import SHORT

SYSTEMS = tuple(compare.SHORT)


def compared():
    """The files of the comparison."""
    return {path.stem: json.loads(path.read_text()) for path in SHORT.glob("*.json")}


def test_no_example_differs_from_its_peer_over_seeds():
    found = compared()
    assert set(found) == set(SYSTEMS)
    values = {}
    for system, run in found.items():
        assert len(run["seeds"]) == 5
        assert run["options"] == compare.SHORT[system]
        assert run["figures"]
        for figure in run["figures"]:
            assert len(figure["here"]) == len(figure["peer"]) == 5
            test = results_page.paired_t_test(figure["here"], figure["peer"])
            values[system, figure["what"]] = test.pvalue
    # Holm: the probability of one false alarm among all is 0.01.
    for number, (name, value) in enumerate(sorted(values.items(), key=lambda i: i[1])):
        assert value > 0.01 / (len(values) - number), name


def test_the_difference_is_that_of_pairs():
    here, peer = [1.0, 4.0, 2.0, 8.0, 5.0], [2.0, 4.5, 4.0, 9.5, 5.0]
    # The mean is -1 and the variance 0.625: t = -1 / sqrt(0.125).
    exact = 2 * stats.t.sf(1 / math.sqrt(0.125), 4)
    test = results_page.paired_t_test(here, peer)
    assert test.pvalue == pytest.approx(exact)
    half = stats.t.ppf(0.975, 4) * math.sqrt(0.125)
    assert test.confidence_interval(0.95) == pytest.approx((-1 - half, -1 + half))


def test_compare_alternates_and_finds_no_figure_of_the_peer_alone(monkeypatch):
    calls = []
    names = {"here": ["untrained x", "x", "z", "gain"], "peer": ["x", "gain"]}

    def run(side, system, seed, data_dir):
        calls.append((side, seed))
        figures = [{"what": what, "value": seed + len(what)} for what in names[side]]
        rest = {"seconds": 1, "versions": {side: "1"}}
        return {"title": "T", "figures": figures, **rest}

    monkeypatch.setattr(compare, "_run", run)
    found = compare.compare("iwae", [3, 5], None)
    assert calls == [("here", 3), ("peer", 3), ("peer", 5), ("here", 5)]
    assert found["figures"] == [{"what": "x", "here": [4, 6], "peer": [4, 6]}]
    names["peer"].append("y")
    with pytest.raises(ValueError, match="Received: 'y'"):
        compare.compare("iwae", [3], None)
    with pytest.raises(ValueError, match="Received: 'aevb'"):
        compare.main(["aevb"])


def test_all_figures_of_a_peer_are_shown():
    paths = sorted(reproduction.PEERS.glob("*.json"))
    assert paths
    for path in paths:
        run = json.loads(path.read_text())
        names = {values["what"] for values in run["figures"]}
        assert set(results_page.peers(reproduction.RESULTS / path.name)) == names


def test_no_figure_is_worse_than_that_of_its_peer():
    """Whatever its reason: the peer has the same budget and the same test data."""
    judged = []
    for path in reproduction.PEERS.glob("*.json"):
        stored = reproduction.RESULTS / path.name
        peer = results_page.peers(stored)
        for values in json.loads(stored.read_text())["figures"]:
            figure = reproduction.Result(**values)
            if figure.what in peer and figure.tolerance:
                judged.append(figure.what)
                assert figure.is_within_tolerance(peer[figure.what]), figure
    assert judged


def test_a_peer_is_shown_at_the_same_budget_alone(tmp_path, monkeypatch):
    run = {"budget": "full", "epochs": 3, "seed": 0}
    run["figures"] = [{"what": "x", "value": 2.0}]
    (tmp_path / "a.json").write_text(json.dumps(run))
    monkeypatch.setattr(results_page, "PEERS", tmp_path / "peers")
    results_page.PEERS.mkdir()
    assert results_page.peers(tmp_path / "a.json") == {}
    for changed, expected in (({}, {"x": 2.0}), ({"epochs": 2}, {}), ({"seed": 1}, {})):
        text = json.dumps({**run, **changed})
        (results_page.PEERS / "a.json").write_text(text)
        assert results_page.peers(tmp_path / "a.json") == expected


MARGINS = {
    "plain_vae": ("-log p(x)", "untrained -log p(x)", -200.0),
    "conv_vae": ("test -ELBO", "untrained -ELBO", -200.0),
    "hyperspherical_vae": (
        "log p(x), d = 2, von",
        "untrained log p(x), d = 2, von",
        200.0,
    ),
    "iwae": ("-log p(x), k = 50", "untrained -log p(x)", -40.0),
    "disentangled": (
        "test ELBO without the constant, full",
        "untrained ELBO without the constant, full",
        50.0,
    ),
}


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch"
)


def python(*words):
    """A process of its own, since PyTorch and TensorFlow may crash in one."""
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_torch
def test_laws_bounds_and_training_of_peers_are_right():
    python("-m", "pytest", "--noconftest", "-o", "addopts=", "tests/torch_peers.py")


@needs_torch
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_peer_learns_in_its_quick_budget(system, tmp_path):
    example_data.write(tmp_path)
    options = ["--budget", "quick", "--data-dir", str(tmp_path)]
    python("-m", f"benchmarks.peers.{system}", *options, "--results", str(tmp_path))
    found = json.loads((tmp_path / f"{system}.json").read_text())["figures"]
    trained, untrained = (
        next(figure["value"] for figure in found if figure["what"].startswith(what))
        for what in MARGINS[system][:2]
    )
    margin = MARGINS[system][2]
    gain = trained - untrained
    assert gain > margin if margin > 0 else gain < margin
