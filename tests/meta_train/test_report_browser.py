"""The report in a browser, where there is a Chromium: on PATH, or named by the variable CHROME."""

import json
import os
import re
import shutil
import subprocess

import pytest
import report_toy

from meta_train import report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
CHROME = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = {"desk": 1280, "phone": 400}
PAPER = 688
"""A4 between its margins."""

pytestmark = pytest.mark.skipif(CHROME is None, reason="no Chromium on PATH and none in CHROME")

WATCH = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => problems.push("refused: " + event.blockedURI));
</script>"""
"""Goes before the page."""

MEASURE = """<script>
const seen = (element) => getComputedStyle(element).display !== "none";
const shown = (i) => [...document.querySelectorAll(".optimizer-" + i)].filter(seen).length;
addEventListener("load", () => {
  const root = document.documentElement;
  const boxes = [...document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect());
  const outside = [...document.querySelectorAll("main *")].filter((e) =>
    !e.closest(".scroll, details, svg, #legend input") && e.getBoundingClientRect().right > root.clientWidth + 1);
  const table = document.querySelector("#by-task table");
  const column = (n) => [...table.tBodies[0].rows].map((row) => row.cells[n].textContent);
  const before = [column(0), shown(0)];
  dispatchEvent(new Event("beforeprint"));  // unfolds
  const wide = [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth + 1);
  table.querySelectorAll("thead button")[1].click();
  const sorted = column(1);
  document.getElementById("show-0").click();
  parent.postMessage({
    name: location.search.slice(1),
    problems, wide: wide.map((e) => e.textContent.slice(0, 80)),
    resources: performance.getEntriesByType("resource").map((entry) => entry.name),
    overflow: root.scrollWidth - root.clientWidth,
    outside: outside.map((e) => e.outerHTML.slice(0, 80)),
    figures: boxes.length,
    flat: boxes.filter((box) => !(box.width > 100 && box.height > 50)).length,
    rows: [...document.querySelectorAll("section")].map((s) => [s.id, s.querySelectorAll("tbody tr").length]),
    tasks: before[0], sorted, lines: [before[1], shown(0)], others: shown(1),
    smallest: Math.min(...[...document.querySelectorAll("svg text")].map((t) => t.getBoundingClientRect().height)),
  }, "*");
});
</script>"""
"""Goes behind it."""

FRAME = """<!doctype html><meta charset="utf-8"><pre id="out"></pre><script>
const found = {};
addEventListener("message", (event) => {
  found[event.data.name] = event.data;
  document.getElementById("out").textContent = JSON.stringify(found);
});
</script>"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the page says of itself at each width, and what the browser logged."""
    folder = tmp_path_factory.mktemp("browser")
    path = report.report(report_toy.write(folder / "toy", tasks=8))
    page = path.read_text().replace("<head>", f"<head>{WATCH}", 1).replace("</body>", f"{MEASURE}</body>")
    (folder / "page.html").write_text(page)
    frames = [
        f'<iframe src="page.html?{name}" style="width:{width}px;height:900px"></iframe>'
        for name, width in WIDTHS.items()
    ]
    (folder / "paper.html").write_text(page.replace("@media print", "@media all"))
    frames.append(f'<iframe src="paper.html?paper" style="width:{PAPER}px;height:900px"></iframe>')
    (folder / "frame.html").write_text(FRAME + "".join(frames))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--enable-logging=stderr"]
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(CHROME), *options, profile, "--dump-dom", (folder / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    text = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text and text[1], f"the browser measured nothing: {done.stderr[-2000:]}"
    unescaped = text[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(unescaped), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module", params=WIDTHS)
def measured(request, found):
    return found[0][request.param]


def test_no_errors_and_no_requests(found, measured):
    assert not found[1]
    assert not measured["problems"] and not measured["resources"]


def test_nothing_sticks_out(measured):
    assert measured["overflow"] <= 0
    assert not measured["outside"]


def test_figures_are_seen(measured):
    assert measured["figures"] >= 3 * 8
    assert measured["flat"] == 0
    assert measured["smallest"] >= 8, "text of a figure is too small to read"


def test_tables_are_whole(measured):
    rows = dict(measured["rows"])
    assert (rows["overall"], rows["by-task"]) == (2 * 6, 8)
    assert rows["failures"] > 8


def test_tables_are_sorted_by_a_click(measured):
    assert measured["tasks"] == [f"task_{k:02d}" for k in range(8)]
    *numbers, last = measured["sorted"]
    assert last == "failed"
    assert list(map(float, numbers)) == sorted(map(float, numbers)) and len(set(numbers)) > 5


def test_an_optimizer_can_be_hidden(measured):
    before, after = measured["lines"]
    assert before >= 3 * 8 and after == 0
    assert measured["others"] >= 3 * 8


def test_tables_fit_on_paper(found):
    assert found[0]["paper"]["wide"] == []
