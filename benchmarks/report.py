"""Opening time and size of a report's page with 10,000 replies, in headless Chromium.

python benchmarks/report.py [--replies 10000] [--runs 5]

The time runs from asking for the file: to the first paint, when there is something to read; to the charts of the first
screen; and to the last chart, which are drawn while nobody is waiting.
Needs playwright and a chromium on the path.
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import safelox
from analysis_files import drift, write_analyses
from results_folders import LOX, NONE, attack, cell, mixed, write_experiment

WORDS = 20_000
WORDS_IN_REPLY = 120


def texts(count: int, seed: int) -> dict[int, str]:
    """Replies of random words, which compress worse than language does."""
    drawn = random.Random(seed)
    vocabulary = ["".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(2, 9))) for _ in range(WORDS)]
    return {i: " ".join(drawn.choices(vocabulary, k=WORDS_IN_REPLY)) for i in range(count)}


def write(root: Path, replies: int) -> None:
    """An experiment of ten models, with every kind of analysis."""
    each = replies // 10
    analyses = write_analyses(root)
    (root / "drift.json").write_text(drift(0.5).model_dump_json())
    attacks = [None, *(attack(name) for name in ("gsm8k", "alpaca", "dolly", "pure-bad"))]
    cells = []
    for place, (defence, attacked) in enumerate((d, a) for d in (NONE, LOX) for a in attacks):
        outcomes = {
            "forbidden": mixed(each // 4, each // 4, each // 10),
            "permitted": mixed(each - each // 4 * 2 - each // 10, 0),
        }
        drifted = "drift.json" if attacked is not None else None
        cells.append(cell(root, defence, attacked, outcomes, texts=texts(each, place), drift=drifted))
    write_experiment(root, cells, analyses=analyses)


def opened(browser: Any, page_file: Path) -> tuple[float, float, float]:
    """Seconds until there is something to read, until the page is open, and until all is drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    started = time.perf_counter()
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-ready]")
    usable = time.perf_counter() - started
    page.wait_for_selector("html[data-drawn]")
    whole = time.perf_counter() - started
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    return paint / 1000, usable, whole


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium on the path: the page's opening is not measured")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder)
        write(root / "results", arguments.replies)
        started = time.perf_counter()
        result = safelox.report(root / "results", root / "report.html")
        print(f"made        {time.perf_counter() - started:.2f} s, {result.replies:,} replies, {result.charts} charts")
        print(f"size        {result.page_bytes / 1e6:.2f} MB")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        times = [opened(browser, root / "report.html") for _ in range(arguments.runs)]
        browser.close()
        for name, seconds in zip(("first paint", "open", "all drawn"), zip(*times, strict=True), strict=True):
            median = statistics.median(seconds)
            print(f"{name:11} {median:.2f} s  ({min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)})")


if __name__ == "__main__":
    main()
