"""Draw each panel of the dashboard from the results of its real queries, to be looked at: Grafana itself is not needed.

    render_panels.py PROMETHEUS_URL DIRECTORY [--seconds 1800] [--job session-buddy]

Writes one PNG for each row of deploy/grafana/dashboards/session-buddy.json into DIRECTORY, and prints the panels without data. Needs matplotlib.
"""

import argparse
import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

DASHBOARD = pathlib.Path(__file__).parents[2] / "deploy/grafana/dashboards/session-buddy.json"
STEP_SECONDS = 15
COLUMNS = 24


class Prometheus:
    def __init__(self, url, seconds, job):
        self.url, self.seconds, self.job = url, seconds, job
        self.end = time.time()

    def expression(self, expr):
        """Return `expr` with the variables of the dashboard and of Grafana replaced."""
        values = {
            "__rate_interval": "60s",
            "__interval": f"{STEP_SECONDS}s",
            "__range": f"{self.seconds}s",
            "job": self.job,
        }
        return re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda match: values.get(match[1], ".*"), expr)

    def result(self, expr, is_instant):
        query = {"query": self.expression(expr)}
        if is_instant:
            path, query["time"] = "query", self.end
        else:
            path = "query_range"
            query |= {"start": self.end - self.seconds, "end": self.end, "step": STEP_SECONDS}
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]["result"]


def legend(target, labels):
    text = target.get("legendFormat", "")
    if text in ("", "__auto"):
        return ", ".join(f"{name}={value}" for name, value in labels.items() if name != "__name__")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), text)


def draw_table(axes, results):
    """Rows by the labels that all series share, a column for each query."""
    rows = {}
    for column, (_, series) in enumerate(results):
        for one in series:
            labels = {name: value for name, value in one["metric"].items() if name not in ("__name__", "job", "instance")}
            rows.setdefault(", ".join(labels.values()), {})[column] = f"{float(one['value'][1]):.4g}"
    cells = [[name, *(values.get(column, "") for column in range(len(results)))] for name, values in sorted(rows.items())]
    axes.axis("off")
    if cells:
        headings = ["", *(target.get("refId", "") for target, _ in results)]
        axes.table(cellText=cells[:12], colLabels=headings, loc="upper center").set_fontsize(7)


def draw_stat(axes, results, decimals):
    number = ".4g" if decimals is None else f".{decimals}f"
    values = [f"{legend(target, one['metric'])} {float(one['value'][1]):{number}}" for target, series in results for one in series]
    axes.axis("off")
    axes.text(0.5, 0.5, "\n".join(values), ha="center", va="center", fontsize=9)


def draw_heatmap(axes, results):
    buckets = sorted(
        ((float(one["metric"]["le"]), dict(one["values"])) for _, series in results for one in series), key=lambda bucket: bucket[0]
    )
    times = sorted({at for _, values in buckets for at in values})
    below = {at: 0.0 for at in times}
    rows = []
    for _, values in buckets:
        rows.append([max(0.0, float(values.get(at, 0)) - below[at]) for at in times])
        below = {at: float(values.get(at, 0)) for at in times}
    axes.imshow(rows, aspect="auto", origin="lower", interpolation="nearest")
    axes.set_yticks(range(len(buckets)), [f"{bound:g}" for bound, _ in buckets], fontsize=5)


def draw_lines(axes, results, start, is_stepped):
    count = 0
    for target, series in results:
        for one in series:
            points = [(float(at) - start, float(value)) for at, value in one["values"]]
            points = [(at, value if math.isfinite(value) else math.nan) for at, value in points]
            axes.plot(*zip(*points), drawstyle="steps-post" if is_stepped else "default", linewidth=1, label=legend(target, one["metric"]))
            count += 1
    if 0 < count <= 14:
        axes.legend(fontsize=5, loc="upper left")
    axes.tick_params(labelsize=6)


def draw_panel(axes, panel, prometheus):
    """Return whether the panel has data."""
    is_instant = panel["type"] in ("stat", "table", "gauge", "bargauge")
    results = [(target, prometheus.result(target["expr"], is_instant)) for target in panel["targets"]]
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    unit = defaults.get("unit", "")
    axes.set_title(f"{panel['title']} [{unit}]", fontsize=8)
    if not any(series for _, series in results):
        axes.text(0.5, 0.5, defaults.get("noValue", "No data"), ha="center", va="center", transform=axes.transAxes)
        return False
    match panel["type"]:
        case "table":
            draw_table(axes, results)
        case "stat":
            draw_stat(axes, results, defaults.get("decimals"))
        case "heatmap":
            draw_heatmap(axes, results)
        case kind:
            draw_lines(axes, results, prometheus.end - prometheus.seconds, kind == "state-timeline")
    return True


def rows(panels):
    """Yield the title of each row and its panels, which stand beside a row, or in it where it is collapsed."""
    title, members = "", []
    for panel in panels:
        if panel["type"] == "row":
            if members:
                yield title, members
            title, members = panel["title"], list(panel.get("panels", []))
        else:
            members.append(panel)
    if members:
        yield title, members


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--job", default="session-buddy")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    prometheus = Prometheus(arguments.url, arguments.seconds, arguments.job)
    empty = []
    for number, (title, panels) in enumerate(rows(json.loads(DASHBOARD.read_text())["panels"])):
        bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        top = min(panel["gridPos"]["y"] for panel in panels)
        figure = pyplot.figure(figsize=(14, max(2.5, (bottom - top) * 0.42)))
        for panel in panels:
            place = panel["gridPos"]
            height = (bottom - top) or 1
            axes = figure.add_axes((
                place["x"] / COLUMNS + 0.02,
                1 - (place["y"] - top + place["h"]) / height + 0.05,
                place["w"] / COLUMNS - 0.03,
                place["h"] / height - 0.13,
            ))
            if not draw_panel(axes, panel, prometheus):
                empty.append(f"{title}: {panel['title']}")
        figure.savefig(arguments.directory / f"{number:02}-{re.sub('[^a-z]+', '-', title.lower())}.png", dpi=80)
        pyplot.close(figure)
    print("\n".join(f"no data: {panel}" for panel in empty) or "each panel has data")


if __name__ == "__main__":
    sys.exit(main())
