"""The page: nothing from elsewhere, nothing that runs, whatever the file is called; and every stage in the drawing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from gpuio.bench import html, report
from gpuio.bench.report import Request

NASTY = "<script>alert('x')</script>&amp;\"> scan.npy"
VOID = {"meta", "line", "rect"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / NASTY.replace("/", "")
    np.save(path, np.random.default_rng(4).integers(1, 99, (3, 5, 11, 7), dtype=np.uint16))
    return report.run(Request(path=str(path), device="cpu", repeats=1))


class Page(HTMLParser):
    """Checks that tags close in order; collects them, their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_self_contained_and_runs_nothing(found: dict[str, Any]) -> None:
    text = html.page(found)
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    attributes = {name for _, found in page.tags for name in found}
    assert not {"src", "href", "srcset", "action", "data"} & attributes
    assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|url\(|@import|javascript:", text)


def test_names_are_shown_as_they_are(found: dict[str, Any]) -> None:
    page = Page(html.page({**found, "command": f"gpuio bench {NASTY}", "notes": [NASTY]}))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.words.count(NASTY) == 1
    assert f"gpuio bench {NASTY}" in page.words
    assert any(NASTY.replace("/", "") in word for word in page.words)


def test_every_stage_has_a_bar_and_a_roof_within_the_drawing(found: dict[str, Any]) -> None:
    page = Page(html.page(found))
    bars = [at for tag, at in page.tags if tag == "rect" and at["class"] in ("bar", "slow")]
    roofs = [at for tag, at in page.tags if tag == "line" and at["class"] == "roof"]
    assert len(bars) == len(found["stages"])
    assert len(roofs) == sum(row["limit"] is not None for row in found["stages"])
    assert sum(at["class"] == "slow" for at in bars) == (found["bottleneck"] in {row["name"] for row in found["stages"]})
    width, height = map(float, next(at["viewbox"] for tag, at in page.tags if tag == "svg").split()[2:])
    for at in bars:
        assert float(at["width"]) > 0 and float(at["x"]) + float(at["width"]) < width and float(at["y"]) + float(at["height"]) < height


def test_what_was_not_cold_stands_out(found: dict[str, Any]) -> None:
    assert 'class="warn"' not in html.page({**found, "cache": {**found["cache"], "confirmed": True}})
    assert '<dd class="warn">' in html.page({**found, "cache": {**found["cache"], "confirmed": False}})
