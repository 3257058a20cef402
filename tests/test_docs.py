"""Every Python block of the README and of docs/ runs as printed."""

import multiprocessing
import os
import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = [
    page for page in PAGES if page.parent.name == "cookbook" and page.stem != "index"
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_run_in_order(page, tmp_path):
    blocks = re.findall(
        r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    if not blocks:
        pytest.skip("no Python on this page")
    code = "\n".join(blocks)
    if ".fit(" in code and re.search(r"^\s*(assert |np\.testing)", code, re.MULTILINE):
        assert "set_random_seed" in code, "another seed may miss what the page claims"
    script = tmp_path / "page.py"
    script.write_text(code)
    # A process for each page, forked from one that has imported TensorFlow and tfp_vae
    # but computed nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tfp_vae"])
    process = context.Process(target=run, args=(script,))
    process.start()
    process.join()
    assert process.exitcode == 0, (tmp_path / "stderr.txt").read_text()[-3000:]


def run(script):
    """Runs a page in its own directory, as `python page.py` does."""
    os.chdir(script.parent)
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    runpy.run_path(str(script), run_name="__main__")


def test_the_guide_lists_every_page_of_the_cookbook():
    guide = (ROOT / "docs" / "guide.md").read_text()
    listed = re.findall(r"^- \[.+\]\(cookbook/(\w+)\.md\)", guide, re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in RECIPES)


@pytest.mark.parametrize("page", RECIPES, ids=lambda p: p.name)
def test_a_page_of_the_cookbook_is_short_and_checks_what_it_claims(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(blocks) <= 3
    assert 20 <= len(lines) <= 40
    assert "set_random_seed" in page.read_text()
    assert any(line.startswith("assert ") for line in lines)


def test_links_to_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_lines_of_code_that_a_page_names_are_there():
    page = ROOT / "docs" / "elbo.md"
    rows = re.findall(
        r"\]\(([^)]+\.py)\) \| `(.+)` \|$", page.read_text(), re.MULTILINE
    )
    assert len(rows) == 9
    for target, line in rows:
        code = (page.parent / target).read_text()
        assert line in code, f"{target} has no line {line!r}"
