"""The page in a real browser: that it draws, filters, searches and prints, and that nothing in the results harms it."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import safelox
from analysis_files import drift, write_analyses
from results_folders import mixed, small_experiment, write_results
from safelox.reporting.browser import LONGEST

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")

HOSTILE = {
    0: "<script>alert(1)</script><img src=x onerror=alert(2)>",
    1: "</script><script>alert(3)</script>",
    2: "<!-- <script>alert(4)</script> ]]> {{7*7}} ${7*7} `",
    3: "one line of a megabyte: " + "a<b>" * 250_000,
    4: "\u202eright to left \u05d0\u05d1 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u2066isolated",
    5: "controls: \x00\x01\x08\x1b[31m\x7f\u2028\u2029\ufeff end",
    6: "",
}


@dataclass
class Opened:
    """A page, and what it did."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it, and hostile replies."""
    root = tmp_path_factory.mktemp("report")
    results = root / "results"
    analyses = write_analyses(results)
    for name, r_ft in (("one", 0.4), ("two", 0.6)):
        (results / f"{name}.json").write_text(drift(r_ft).model_dump_json())
    prompts = {number: text[:200] for number, text in HOSTILE.items()}
    small_experiment(results, texts=HOSTILE, prompts=prompts, analyses=analyses, drifts=("one.json", "two.json"))
    result = safelox.report(results, root / "report.html")
    assert result.missing == ()
    return root / "report.html"


def open_page(browser: Any, file: Path, **options: Any) -> Opened:
    page = browser.new_page(**({"viewport": {"width": 1200, "height": 900}} | options))
    opened = Opened(page)
    page.on("console", lambda message: opened.errors.append(message.text))
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("requestfailed", lambda request: opened.blocked.append(request.failure))

    def dismiss(dialog: Any) -> None:
        opened.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    return opened


@pytest.fixture
def opened(browser: Any, report_file: Path) -> Iterator[Opened]:
    found = open_page(browser, report_file)
    yield found
    assert found.errors == []
    assert found.requests == [report_file.as_uri()]
    assert found.dialogs == []
    found.page.close()


def open_replies(opened: Opened) -> Any:
    opened.page.click("#open-replies")
    opened.page.wait_for_selector("html[data-replies]")
    return opened.page


def filtered(page: Any, count: str) -> None:
    sync_api.expect(page.locator("#count")).to_have_text(re.compile(f"^{re.escape(count)}"))


def test_every_chart_has_marks(opened: Opened) -> None:
    kinds = check_charts(opened.page)
    assert kinds >= {"asr", "outcomes", "trade", "over", "drift", "r", "curve", "plane", "line", "energy", "pareto"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_page_of_the_labs_recipe(browser: Any, lab_run: Path, tmp_path: Path) -> None:
    result = safelox.report(lab_run, tmp_path / "report.html")
    assert result.missing == ()
    assert result.page_bytes < 15e6
    opened = open_page(browser, tmp_path / "report.html")
    assert check_charts(opened.page) >= {"asr", "outcomes", "trade", "over", "drift", "r", "curve", "plane", "energy"}
    assert "LoX" in opened.page.inner_text("#summary")
    page = open_replies(opened)
    filtered(page, f"{result.replies:,} of {result.replies:,}")
    page.select_option("#filter-outcome", label="refused")
    page.fill("#search", "sorry")
    assert 0 < int(page.inner_text("#count").split()[0].replace(",", "")) < result.replies
    assert opened.errors == []
    assert opened.requests == [(tmp_path / "report.html").as_uri()]
    page.close()


def check_charts(page: Any) -> set[str]:
    """Assert that every chart has marks, a name and numbers; their kinds."""
    page.wait_for_selector("html[data-drawn]")
    for select in page.query_selector_all("select[data-figure]"):
        for value in select.evaluate("select => [...select.options].map(option => option.value)"):
            select.select_option(value)
    charts = page.evaluate("[...document.querySelectorAll('.chart')].map(chart => chart.dataset.chart)")
    kinds = {name.partition("-")[0] for name in charts}
    for chart in charts:
        marks = page.evaluate(
            "id => document.querySelectorAll(`#chart-${id} .plot :is(.point, .js-line, .contourlayer path)`).length",
            chart,
        )
        assert marks > 0, chart
        label = page.get_attribute(f"#chart-{chart} .plot", "aria-label")
        assert label is not None
        assert page.locator(f"#chart-{chart} table tbody tr").count() > 0, chart
    return kinds


def test_the_page_is_read_in_both_themes(browser: Any, report_file: Path) -> None:
    opened = open_page(browser, report_file, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    axis = "getComputedStyle(document.querySelector('#chart-asr-0 .xtick text')).fill"
    dark = opened.page.evaluate(f"[{ground}, {axis}]")
    opened.page.click("#theme")
    light = opened.page.evaluate(f"[{ground}, {axis}]")
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    assert opened.errors == []
    opened.page.close()


def test_filters_and_search_find_replies(opened: Opened) -> None:
    page = open_replies(opened)
    filtered(page, "400 of 400")
    page.select_option("#filter-outcome", label="incoherent")
    filtered(page, "4 of 400")
    page.select_option("#filter-suite", label="permitted")
    filtered(page, "No reply matches")
    page.click("#clear")
    page.select_option("#filter-model", label="LoX 6 x 1.25 · pure-bad")
    filtered(page, "50 of 400")
    page.fill("#search", "REPLY 7:")
    filtered(page, "5 of 400")  # 7, 17, 27 and 37, and 7 of the other suite
    page.locator("#list summary").first.click()
    assert "reply 7: complied" in page.inner_text("#list .answer .said")
    page.get_by_role("button", name="This prompt in all models").first.click()
    filtered(page, "8 of 400")


def test_the_pages_of_replies_are_turned(opened: Opened) -> None:
    page = open_replies(opened)
    assert page.locator("#list > li").count() == 20
    assert page.is_disabled("#previous")
    first = page.inner_text("#list > li:first-child")
    page.click("#next")
    assert page.inner_text("#page") == "Page 2 of 20"
    assert page.inner_text("#list > li:first-child") != first


def test_nothing_harmful_is_seen_before_a_click(opened: Opened) -> None:
    page = opened.page
    assert "request 1 of forbidden" not in page.inner_text("body")
    open_replies(opened)
    assert "reply 1:" not in page.inner_text("#list")
    page.click("#unfold")
    assert "reply 1:" in page.inner_text("#list")


def test_hostile_replies_do_nothing(opened: Opened) -> None:
    page = open_replies(opened)
    page.select_option("#filter-model", label="no defence · pure-bad")
    page.select_option("#filter-suite", label="forbidden")
    filtered(page, "40 of 400")
    page.click("#unfold")
    page.wait_for_selector("#list .answer .said")
    shown = page.evaluate("[...document.querySelectorAll('#list .answer .said')].slice(0, 7).map(e => e.textContent)")
    for number, text in HOSTILE.items():
        if number == 3:
            assert shown[3].startswith(text[:LONGEST])
            assert "more characters in samples.jsonl" in shown[3]
        else:
            assert shown[number] == (text or "(nothing)")
    assert page.evaluate("document.querySelectorAll('#list script, #list img, #list b').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.fill("#search", "onerror=alert")
    filtered(page, "1 of 400")


def test_injected_scripts_would_not_run(opened: Opened) -> None:
    """Even if a text got past the page's own care, its policy stops it."""
    page = opened.page
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = true' }))"
    )
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=https://example.org/x onerror=alert(1)>')")
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in opened.errors)
    assert opened.blocked == ["csp"]
    opened.errors.clear()
    opened.requests.pop()


def test_a_click_on_a_mark_shows_its_replies(opened: Opened) -> None:
    page = opened.page
    page.locator("#chart-asr-0").scroll_into_view_if_needed()
    box = page.locator("#chart-asr-0 .scatterlayer .point").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("html[data-replies]")
    filtered(page, "40 of 400")
    assert page.input_value("#filter-model") != ""


def test_the_keyboard_reaches_all(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    page.focus("#worst-case table th button")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.keyboard.press("Enter")
    assert page.get_attribute("#worst-case table th", "aria-sort") == "ascending"
    assert outline == "solid"
    page.focus("#open-replies")
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-replies]")
    assert page.evaluate("document.activeElement.id") == "search"
    page.locator("#list summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#list details[open]").count() == 1
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a[href], select, input')]"
        ".filter(e => !(e.textContent.trim() || e.labels?.length || e.ariaLabel) && e.closest('.plot') === null).length"
    )
    assert unnamed == 0


def test_tables_sort_by_their_numbers(opened: Opened) -> None:
    page = opened.page
    page.locator("#chart-asr-0 .numbers summary").click()
    header = page.locator("#chart-asr-0 th", has_text="ASR").locator("button")
    header.click()
    header.click()
    column = page.evaluate(
        "[...document.querySelectorAll('#chart-asr-0 tbody tr')].map(row => Number(row.cells[2].dataset.value))"
    )
    assert column == sorted(column, reverse=True)


def test_it_prints_all_charts_and_numbers_and_no_replies(opened: Opened) -> None:
    page = opened.page
    open_replies(opened)
    printed = page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('.main-svg'))")
    assert page.evaluate("[...document.querySelectorAll('details.numbers')].every(details => details.open)")
    assert not page.is_visible("#replies")
    assert not page.is_visible("#theme")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.evaluate("document.querySelectorAll('.chart[hidden]').length") > 0
    assert page.is_visible("#replies")


def test_it_fits_a_narrow_screen(browser: Any, report_file: Path) -> None:
    opened = open_page(browser, report_file, viewport={"width": 400, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 400
    opened.page.close()


def test_it_is_read_without_scripts(browser: Any, report_file: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(report_file.as_uri())
    assert "LoX helped" in page.inner_text("#summary")
    assert page.locator("#chart-asr-0 tbody tr").count() == 8
    page.close()


def test_ten_thousand_long_replies_fit(browser: Any, tmp_path: Path) -> None:
    """Of about as many characters as 512 tokens have, which no two replies share."""
    words = [f"w{number * 7919 % 100_003}" for number in range(3000)]
    texts = {number: " ".join(words[(number * 37 + j * j) % 3000] for j in range(350)) for number in range(10_000)}
    texts[9999] = "reply 9999:"
    write_results(tmp_path / "results", {"forbidden": mixed(5000, 5000)}, texts=texts)
    result = safelox.report(tmp_path / "results", tmp_path / "page.html")
    assert result.replies == 10_000
    assert result.page_bytes < 15_000_000
    opened = open_page(browser, tmp_path / "page.html")
    page = open_replies(opened)
    filtered(page, "10,000 of 10,000")
    page.fill("#search", "reply 9999:")
    filtered(page, "1 of 10,000")
    assert opened.errors == []
    page.close()
