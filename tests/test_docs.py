"""The documentation: a page per check, an example per public function, links that lead on."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(ROOT)


def generated(name):
    return importlib.import_module(f"docs.generate.{name}")


def test_every_check_has_a_plant_for_its_page():
    from gendebug_torch.checks.registry import all_checks

    planted = generated("plants").plants()
    assert {check.name for check in all_checks()} <= set(planted)
    assert all(plant.code for plant in planted.values())


def test_every_check_has_measured_error_rates():
    """`python -m scripts.bench_checks --write` measures those of a new check."""
    from gendebug_torch.checks.registry import all_checks

    measured = set(generated("check_pages")._rates())
    assert {check.name for check in all_checks()} == measured


def test_a_page_of_a_check_says_everything(tmp_path):
    from gendebug_torch.checks.registry import all_checks

    pages = generated("check_pages")
    (check,) = [check for check in all_checks() if check.name == "shift.ks"]
    plant = generated("plants").plants()["shift.ks"]
    text = pages._page(check, plant, pages._rates(), tmp_path)
    for part in ("**Claim**", "**warn** · percentile", "When it stays quiet", "`alpha`"):
        assert part in text
    assert "planted faults" in text
    assert (tmp_path / "shift.ks.png").stat().st_size > 5000


def test_every_public_function_has_an_example(tmp_path):
    names, without = generated("api_pages").api_pages(tmp_path)
    assert names >= 100
    assert without == []


def test_every_command_has_its_help(tmp_path):
    page = tmp_path / "commands.md"
    count = generated("command_pages").command_page(page)
    assert page.read_text().count("\n## gendebug ") == count
    assert page.read_text().count("Example: gendebug ") >= count


def test_examples_of_the_gallery_are_pages_and_notebooks(tmp_path):
    gallery = generated("gallery_pages")
    assert gallery.gallery_pages(tmp_path / "gallery", tmp_path / "cache", run=False) == {}
    for name in gallery.GALLERY:
        assert (tmp_path / "gallery" / f"{name}.md").read_text().startswith("# ")
        compile((ROOT / "examples" / f"{name}.py").read_text(), name, "exec")


def test_links_that_lead_nowhere_are_named(tmp_path):
    links = generated("links")
    (tmp_path / "a.html").write_text('<a href="b.html#x">x</a><a id="y" href="#y">y</a>')
    assert links.broken_links(tmp_path) == ["a.html: b.html#x"]
    (tmp_path / "b.html").write_text('<p id="x"><img src="none.png"></p>')
    assert links.broken_links(tmp_path) == ["b.html: none.png"]


def test_another_package_registers_checks(tmp_path):
    (tmp_path / "acme_checks.py").write_text(
        "from gendebug_torch.checks.finding import Cause, Severity\n"
        "from gendebug_torch.checks.registry import check\n"
        "@check('acme.rows', cause=Cause.UNKNOWN)\n"
        "def there_are_rows(production, *, least: int = 1):\n"
        "    '''Production has rows.\n\n    Source: Acme (2026).\n    '''\n"
        "    yield there_are_rows.finding(Severity.OK, 'There are rows.')\n"
    )
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gendebug_torch.checks]\nacme = acme_checks\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from gendebug_torch.cli import main; main(['checks'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "acme.rows" in done.stdout
    assert "Acme (2026)" in done.stdout
