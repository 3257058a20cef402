"""The documentation site builds without a warning, and is whole."""

import contextlib
import fcntl
import html.parser
import os
import pathlib
import shutil
import subprocess
import sys
import urllib.parse
import uuid
import zlib

import pytest

import tfp_vae as tv

ROOT = pathlib.Path(__file__).parent.parent
SITE = ROOT / "output" / "site"
MODULES = {
    "tfp_vae": tv.__all__,
    "tfp_vae.disentanglement": ["dci", "DCI", "mutual_information_gap", "sap"],
    "tfp_vae.distributions": tv.distributions.__all__,
    "tfp_vae.evaluation": tv.evaluation.__all__,
    "tfp_vae.plots": tv.plots.__all__,
}


class Page(html.parser.HTMLParser):
    """Links, anchors, loaded files and equations of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.loaded, self.equations = [], {""}, [], 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id", ""))
        self.equations += "math" in attrs.get("class", "").split()
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag in ("script", "img", "iframe") and "src" in attrs:
            self.loaded.append(attrs["src"])
        if tag == "link" and "stylesheet" in attrs.get("rel", ""):
            self.loaded.append(attrs["href"])


@pytest.fixture(scope="module")
def pages():
    """The site, whose tutorials show no outputs."""
    # The workers of pytest-xdist share a folder: the first one builds in it.
    run_id = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(uuid.uuid4()))
    with locked() as lock:
        if lock.read() != run_id:
            build(SITE, "-D", "nb_execution_mode=off")
            lock.truncate(0)
            lock.write(run_id)
    return read(SITE)


@contextlib.contextmanager
def locked():
    """A file that one process at a time has; all builds write docs/api/names."""
    SITE.parent.mkdir(exist_ok=True)
    with (SITE.parent / "site.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        yield lock


def build(site, *options):
    pytest.importorskip("furo", reason="the theme comes with the extra `docs`")
    # Anew: Sphinx repeats no warnings of pages that it need not read again.
    for folder in (site, ROOT / "docs" / "api" / "names"):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", *options, "docs", site]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-5000:]


def read(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_public_name_has_a_page_and_can_be_linked_to(pages):
    names = {f"{module}.{name}" for module, all_ in MODULES.items() for name in all_}
    inventory = (SITE / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]
    linked = {
        line.split()[0]
        for line in zlib.decompress(inventory).decode().split("\n")
        if line
    }
    assert names - linked == set()
    pages_of_names = [path for path in pages if path.parent.name == "names"]
    assert len(pages_of_names) >= len(names)


def test_no_internal_link_is_dead(pages):
    dead = []
    for path, page in pages.items():
        # Sphinx's pages of source know one module for all their names, and so lead to
        # the right page, but not always to the place on it.
        source = "_modules" in path.parts
        for link in page.links:
            to = urllib.parse.urlsplit(link)
            if to.scheme or to.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(to.path)).resolve()
            target = target if to.path else path
            there = source or target not in pages
            if not target.exists() or not (
                there or to.fragment in pages[target].anchors
            ):
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert len(pages) > 150
    assert dead == []


def test_a_page_loads_nothing_from_elsewhere(pages):
    for path, page in pages.items():
        for file in page.loaded:
            there = path.parent / urllib.parse.urlsplit(file).path
            assert there.exists(), f"{path.relative_to(SITE)} loads {file}"


def test_equations_are_given_to_mathjax(pages):
    normal = SITE / "api" / "names" / "tfp_vae.IndependentNormal.html"
    assert pages[normal].equations
    assert any("tex-svg.js" in file for file in pages[normal].loaded)


@pytest.mark.slow
def test_the_tutorials_run_and_show_pictures(tmp_path):
    with locked():
        build(tmp_path)
    pages = read(tmp_path)
    tutorials = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
    assert len(tutorials) == 7
    for source in tutorials:
        if source.stem != "index":
            page = pages[tmp_path / "tutorials" / f"{source.stem}.html"]
            assert any("_images" in file for file in page.loaded), source.stem
