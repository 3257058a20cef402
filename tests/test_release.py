"""What `python -m build` makes is whole, installs, and brings known licences."""

import email
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

import tfp_vae as tv

ROOT = pathlib.Path(__file__).parent.parent
URL = "https://example.com/tfp_vae"
LICENSES = "Apache;BSD;ISC;MIT;MPL;PSF;Python Software Foundation;Zlib"


def run(*command, **given):
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, **given
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The two files of a release, built from the tracked files."""
    pytest.importorskip("build", reason="build comes with the extra `dev`")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("this is not a clone of the repository")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    environment = {**os.environ, "TFP_VAE_URL": URL}
    run("-m", "build", source, "--outdir", out, env=environment)
    return out


@pytest.fixture(scope="module")
def wheel(built):
    return zipfile.ZipFile(built / f"tfp_vae-{tv.__version__}-py3-none-any.whl")


def test_the_wheel_has_the_modules_and_nothing_else(wheel):
    packed = {n for n in wheel.namelist() if ".dist-info/" not in n}
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "tfp_vae").rglob("*.py")}
    assert packed == modules | {"tfp_vae/py.typed"}


def test_the_metadata_is_complete(wheel):
    name = next(n for n in wheel.namelist() if n.endswith("/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == tv.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Author"]
    assert f"Source, {URL}" in metadata.get_all("Project-URL")
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    # The links of the README lead somewhere from the page of an index.
    links = re.findall(r"\]\(([^)#]+)", metadata.get_payload())
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)


def test_twine_accepts_both_files(built):
    pytest.importorskip("twine", reason="twine comes with the extra `dev`")
    checked = run("-m", "twine", "check", "--strict", *sorted(built.iterdir()))
    assert checked.count("PASSED") == 2


def test_the_source_has_what_tests_and_site_need(built):
    with tarfile.open(built / f"tfp_vae-{tv.__version__}.tar.gz") as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    left = {n for n in tracked if not n.startswith(".") and (ROOT / n).exists()}
    assert left - packed == set()


def test_the_wheel_works_where_the_checkout_is_not(built, wheel, tmp_path):
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
        "--target", tmp_path / "site", wheel.filename)  # fmt: skip
    program = """
import json, numpy as np, keras, tfp_vae as tv
layers = [keras.Input((3,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
decoder = [keras.Input((2,)), keras.layers.Dense(6), tv.IndependentNormal(3)]
vae = tv.VAE(keras.Sequential(layers), keras.Sequential(decoder), tv.StandardNormal(2))
vae.compile("adam")
history = vae.fit(np.ones((8, 3), "float32"), verbose=0).history
print(json.dumps([tv.__file__, sorted(history)]))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    printed = run("-c", program, cwd=tmp_path, env=environment)
    file, history = json.loads(printed.splitlines()[-1])
    assert file == str(tmp_path / "site" / "tfp_vae" / "__init__.py")
    assert history == ["elbo", "kl", "kl_weight", "loss", "nll"]


def requirements(name, extras=("",), found=frozenset()):
    """A package of the environment and all that it brings."""
    requirement = pytest.importorskip("packaging.requirements").Requirement
    found = found | {name}
    for text in importlib.metadata.requires(name) or []:
        needed = requirement(text)
        other = needed.name.lower().replace("_", "-")
        applies = needed.marker is None or any(
            needed.marker.evaluate({"extra": extra}) for extra in extras
        )
        if applies and other not in found:
            found |= requirements(other, ("", *needed.extras), found)
    return found


def test_the_licences_of_what_it_brings_are_permissive():
    pytest.importorskip("piplicenses", reason="pip-licenses comes with `dev`")
    packages = requirements("tfp-vae")
    packages -= {"namex"}  # its metadata has none, its licence file is Apache 2.0
    assert {"keras", "tensorflow", "tf-keras", "numpy"} <= packages
    options = ["--with-system", "--from=mixed", "--partial-match"]
    options += [f"--allow-only={LICENSES}", "--packages", *sorted(packages)]
    found = run("-m", "piplicenses", *options)
    # The list that CI keeps.
    (ROOT / "output").mkdir(exist_ok=True)
    (ROOT / "output" / "licenses.txt").write_text(found)


def test_what_is_installed_fits_together():
    assert "No broken requirements" in run("-m", "pip", "check")


def test_the_citation_has_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {tv.__version__}\n" in citation
    released = re.search(r"^date-released: (.+)$", citation, re.MULTILINE)[1]
    assert f"## {tv.__version__} - {released}" in (ROOT / "CHANGELOG.md").read_text()
