"""The page in a real browser: Debian's Chromium, driven by Playwright. `make test-browser` runs these tests."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct
from lctprune import reports
from lctprune.config.combined import Figures, Leaves, ProgressiveRecord
from lctprune.measure.choice import select
from lctprune.measure.selection import Budget
from lctprune.workflows.answers import read_answers
from lctprune.workflows.loading import LoadedRun

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
OPTIONS = {"flops": "FLOPs", "latency_ms": "latency", "parameters": "parameters"}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium and playwright"
    ),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def candidates() -> list[lct.Candidate]:
    """Twenty networks, more than are named, some of them unmeasured, equal or dearer than the main network."""
    found = []
    for exit in range(20):
        cost = 1_234_567 * (exit + 3) if exit != 17 else None
        found.append(
            lct.Candidate(
                exit=exit,
                name="main network" if exit == 12 else f"layer{exit}.block",
                accuracy=0.5 + 0.02 * (exit // 2) - 0.07 * (exit % 5 == 3),
                loss=2 - exit / 20,
                flops=cost,
                macs=cost and cost // 2,
                parameters=70_001 * (1 + (exit * 7) % 20),
                latency_ms=None if exit in (4, 17) else 0.8123 * (1 + (exit * 3) % 20),
                size_bytes=280_004 * (1 + (exit * 7) % 20),
                samples=500,
                latency_p5_ms=0.7,
                latency_p95_ms=20.0,
            )
        )
    return found


@pytest.fixture
def page(chromium: Any, trained: lct.Run, candidates: list[lct.Candidate], tmp_path: Path) -> Iterator[Any]:
    """Open the page of a run in a window; nothing may be reported on the console, or asked of the network."""
    file, problems = tmp_path / "report.html", []
    answers = read_answers(LoadedRun(trained), candidates, 2)
    page = reports.report_page(trained, candidates, chosen=candidates[6], budget={"flops": 14e6}, answers=answers)
    file.write_text(page)
    opened = chromium.new_page(viewport={"width": 1280, "height": 900})
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert problems == []


def choose(page: Any, cost: str) -> None:
    page.get_by_label(OPTIONS.get(cost, "size"), exact=True).check(force=True)


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_fits_every_screen(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(200)  # it draws anew
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('#front svg').getBoundingClientRect().right") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    table = page.locator("#candidates")
    table.evaluate("element => element.parentElement.scrollLeft = 10_000")
    first = table.locator("tbody tr >> nth=0 >> th").bounding_box()
    assert 0 <= first["x"] < width / 4  # the first column stays
    assert page.locator("img").count() > 0
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("cost", ["flops", "latency_ms", "parameters", "size_bytes"])
def test_a_hover_shows_what_candidates_csv_says(
    page: Any, candidates: list[lct.Candidate], tmp_path: Path, cost: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(200)
    reports.write_candidates(candidates, tmp_path / "candidates.csv")
    with (tmp_path / "candidates.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[cost]]
    choose(page, cost)
    found = set()
    page.locator("#front-figure").scroll_into_view_if_needed()
    marks = page.locator("#front g[aria-label=dot] path")
    for index in range(marks.count()):
        box = marks.nth(index).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        text = page.locator("#front g[aria-label=tip]").text_content().replace("\u200b", "")
        row = next(row for row in rows if text.startswith(f"{row['name']}validation"))
        found.add(row["name"])
        assert f"{float(row['accuracy']):.2%}" in text
        for name, unit in (("flops", "FLOPs"), ("parameters", "parameters"), ("size_bytes", "bytes")):
            assert not row[name] or f"{int(row[name]):,} {unit}" in text
        assert not row["latency_ms"] or f"{float(row['latency_ms']):.3f} ms" in text
    assert len(found) >= 0.9 * len(rows)  # where two lie on each other, one is shown


def test_the_slider_chooses_as_select_does(page: Any, candidates: list[lct.Candidate]) -> None:
    main = candidates[12]
    for cost in OPTIONS:
        choose(page, cost)
        steps = int(page.locator("#budget").get_attribute("max"))
        assert steps >= 100
        for step in range(0, steps, 7):
            page.locator("#budget").fill(str(step))
            limits = Budget(**{cost: f"{step + 1}%"}).limits(main)  # type: ignore[arg-type]
            fits = [each for each in candidates if limits.excess(each) <= 1]
            expected = select(candidates, limits).name if fits else "nothing fits"
            assert page.locator("#budget-choice strong").inner_text() == expected
            marked = page.locator("#candidates tr.chosen th")
            assert marked.count() == (1 if fits else 0)
            assert not fits or marked.inner_text().startswith(expected)
            command = page.locator("#budget-command").inner_text()
            assert command.endswith(f"{step + 1}%") == bool(fits)
        page.locator("#budget").fill(str(steps))
        assert page.locator("#budget-choice strong").inner_text() == select(candidates, Budget()).name


def test_the_page_opens_with_the_choice_that_was_made(page: Any, candidates: list[lct.Candidate]) -> None:
    assert page.locator("#budget-choice").inner_text().startswith("At most 14M FLOPs, as selected")
    assert page.locator("#budget-choice strong").inner_text() == candidates[6].name
    assert page.locator("#candidates tr.chosen").get_attribute("data-exit") == "6"


def test_a_sort_sorts(page: Any, candidates: list[lct.Candidate]) -> None:
    table = page.locator("#candidates")

    def order() -> list[int]:
        return [int(exit) for exit in table.locator("tbody tr").evaluate_all("rows => rows.map(r => r.dataset.exit)")]

    table.get_by_role("button", name="FLOPs", exact=True).click()
    costs = [candidates[exit].flops for exit in order()]
    assert costs[-1] is None  # what is not known comes last, whichever way
    assert costs[:-1] == sorted(costs[:-1])
    table.get_by_role("button", name="FLOPs", exact=True).click()
    costs = [candidates[exit].flops for exit in order()]
    assert costs[-1] is None
    assert costs[:-1] == sorted(costs[:-1], reverse=True)
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("FLOPs")
    table.get_by_role("button", name="latency").click()
    latencies = [candidates[exit].latency_ms for exit in order()]
    assert latencies[:-2] == sorted(latencies[:-2])
    table.get_by_role("button", name="network").click()
    assert candidates[order()[-1]].is_main
    assert [candidates[exit].name for exit in order()[:3]] == ["layer0.block", "layer1.block", "layer2.block"]


def test_a_click_finds_the_row(page: Any) -> None:
    page.locator("#front-figure").scroll_into_view_if_needed()
    mark = page.locator("#front g[aria-label=dot] path").first
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    name = page.locator("#front g[aria-label=tip]").text_content().replace("\u200b", "").split("validation")[0]
    page.mouse.down()
    page.mouse.up()
    picked = page.locator("#candidates tr.picked th")
    assert name.startswith(picked.inner_text().splitlines()[0])


@pytest.mark.parametrize("width", [1280, 390])
def test_networks_of_several_exits_are_on_the_front(
    chromium: Any, trained: lct.Run, candidates: list[lct.Candidate], tmp_path: Path, width: int
) -> None:
    figures = Figures(samples=50, accuracy=0.9, main_accuracy=0.74, mean_flops=9e6, shares=(0.3, 0.7))
    exits = (Leaves(name="layer0.block"), Leaves(name="main network"))
    early = ProgressiveRecord(exits=exits, checked_on=figures, test=figures, trained_with={})
    file, problems = tmp_path / "report.html", []
    file.write_text(reports.report_page(trained, candidates, progressive=early))
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#front-figure").scroll_into_view_if_needed()
    box = page.locator("#front g[aria-description='several exits'] path").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    text = page.locator("#front g[aria-label=tip]").text_content().replace("\u200b", "")
    assert text.startswith("progressivevalidation accuracy 90.00%")
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#candidates tr.picked").count() == 0  # it is in no row
    choose(page, "latency_ms")
    assert page.locator("#front g[aria-description='several exits'] path").count() == 0
    bars = [page.locator(".leaving div").nth(index).bounding_box()["width"] for index in range(2)]
    assert bars[0] / bars[1] == pytest.approx(3 / 7, rel=0.02)
    page.close()
    assert problems == []


def test_without_scripts_the_page_has_its_plots(
    chromium: Any, trained: lct.Run, candidates: list[lct.Candidate], tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(reports.report_page(trained, candidates))
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("noscript svg, figure svg").count() >= 3
    assert not page.locator("#budget").is_visible()
    context.close()
