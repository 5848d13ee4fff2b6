"""The report in a real browser: sections open, pictures have size, nothing is fetched, names stay
text."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, diagnose
from gendebug_torch.curves import LearningCurves

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
NAME = "<script>window.broken = true</script>"


def side(seed, shift=0.0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({NAME: rng.normal(shift, 1.0, 1500), "amount": rng.normal(size=1500)})
    logits = torch.from_numpy(2.5 * frame[NAME].to_numpy() - 2.5 * shift)
    targets = (
        torch.rand(1500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        < (logits / 2.5).sigmoid()
    ).long()
    return Records(frame, targets, logits, schema=Schema(), name="side")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    epoch = torch.arange(40)
    noise = 0.003 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    val = 0.5 + 0.6 * torch.exp(-epoch / 6) + 0.006 * (epoch - 15).clamp(min=0) + noise
    curves = LearningCurves(epoch, torch.exp(-epoch / 8).double(), val.double())
    diagnosis = diagnose(curves=curves, validation=side(0), production=side(1, 1.0), budget="1m")
    return diagnosis.write(
        tmp_path_factory.mktemp("report"),
        title=NAME,
        pictures={"Curves": curves},
        tables={NAME: curves.table()},
    )


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]
        running = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        yield running
        running.close()


@pytest.fixture
def visit(browser, report):
    """The page, with what it asked for and complained about."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(report.as_uri())
    yield page
    context.close()


def test_nothing_leaves_the_page_and_nothing_complains(visit, report):
    assert [url for url in visit.requests if not url.startswith("data:")] == [report.as_uri()]
    assert visit.complaints == []


def test_every_section_opens(visit):
    for details in visit.locator("section > details, #list > details").all():
        was = details.get_attribute("open") is not None
        details.locator("> summary").click()
        assert (details.get_attribute("open") is None) is was
    for section in ("causes", "tables", "pictures", "findings", "schedule"):
        assert visit.locator(f"#{section} h2").is_visible()


def test_findings_are_searched_filtered_and_sorted(visit):
    rows = visit.locator("#list > details")
    total = rows.count()
    visit.fill("#search", "amount")
    assert 0 < visit.locator("#list > details:visible").count() < total
    assert f"of {total}" in visit.locator("#shown").inner_text()
    visit.fill("#search", "")
    visit.uncheck("#controls [value=note]")
    shown = visit.locator("#list > details:visible").all()
    assert {row.get_attribute("data-severity") for row in shown} <= {"warn", "fail", "errored"}
    visit.check("#controls [value=note]")
    visit.select_option("#sort", "check")
    checks = [row.get_attribute("data-check") for row in rows.all()]
    assert checks == sorted(checks)
    visit.click("#unfold")
    assert visit.locator("#list > details:not([open])").count() == 0


def test_a_finding_is_copied_as_markdown(visit):
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    first = visit.locator("#list > details").first
    first.locator("> summary").click()
    first.locator(".copy").click()
    first.locator(".copy", has_text="Copied").wait_for()
    assert visit.evaluate("navigator.clipboard.readText()").startswith("**fail** `")


def test_a_link_opens_what_it_leads_to(visit):
    visit.locator("#headline a").click()
    visit.locator("details.finding[open] .inside").first.wait_for()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_carries_the_story(visit, width, height):
    visit.set_viewport_size({"width": width, "height": height})
    for part in ("#decision", ".advice", "#reasons li >> nth=0"):
        box = visit.locator(part).first.bounding_box()
        assert box["y"] + box["height"] <= height, part
    assert visit.locator("#headline img").bounding_box()["y"] < 1.2 * height
    page = visit.evaluate("document.documentElement.scrollHeight")
    assert page < (5500 if width == 1280 else 9000)


def test_paper_and_the_dark(visit):
    ink = "getComputedStyle(document.body).color"
    light = visit.evaluate(ink)
    visit.emulate_media(color_scheme="dark")
    assert visit.evaluate(ink) != light
    visit.emulate_media(media="print", color_scheme="light")
    visit.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.locator("details:not([open])").count() == 0
    assert not visit.locator("#controls").is_visible()
    visit.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.locator("details:not([open])").count() > 0


def test_pictures_have_size(visit):
    visit.evaluate("document.querySelectorAll('details').forEach(entry => entry.open = true)")
    pictures = visit.locator("img").all()
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture.evaluate("image => image.naturalWidth") > 200
        assert picture.bounding_box()["width"] > 200
        assert picture.get_attribute("alt")


def test_a_column_named_like_a_script_stays_text(visit):
    assert visit.evaluate("window.broken") is None
    assert visit.title() == NAME
    assert NAME in visit.locator("h1").inner_text()
    assert NAME in visit.locator("#causes").inner_text()


def test_links_lead_to_their_findings(visit):
    for link in visit.locator("#causes a").all():
        assert visit.locator(link.get_attribute("href")).count() == 1


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_the_screen(visit, width):
    visit.set_viewport_size({"width": width, "height": 800})
    visit.evaluate("document.querySelectorAll('details').forEach(entry => entry.open = true)")
    assert visit.evaluate("document.documentElement.scrollWidth") <= width
