#!/usr/bin/env python3
"""Draws docs/plots/*.svg from the JSON Lines of mapleaf-load that lie beside them.

    tools/plots/plot.py            writes every picture
    tools/plots/plot.py --check    writes nothing; ends with 1 if one is not what it would be

Needs Python 3 and nothing else. The same JSON gives the same bytes everywhere: all
coordinates are rounded to a tenth, and nothing depends on time, fonts or locale.
"""

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "plots"

# The picture and the part of it in which curves are drawn; room on the right for names.
WIDTH, HEIGHT = 760, 432
LEFT, RIGHT, TOP, BOTTOM = 78, 560, 62, 356
# Least distance of two lines of text.
LINE = 17

# Colours that are told apart in light and dark, and by most who do not see all colours;
# each curve has a mark of its own, too.
LIGHT = ["#0b62a4", "#b8500a", "#2a7d33", "#8a3a91"]
DARK = ["#6cb6ff", "#f5a05a", "#7ed087", "#d99be0"]

STYLE = """
  text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  text.small { font-size: 12px; fill: #59636e }
  .back { fill: #ffffff }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .axis { stroke: #59636e; stroke-width: 1 }
  .line { fill: none; stroke-width: 2 }
  .spread { stroke-width: 1.2 }
  .bound { stroke-width: 1.5; stroke-dasharray: 6 4; stroke: #59636e }
%s
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    text.small { fill: #9da7b1 }
    .back { fill: #0d1117 }
    .grid { stroke: #2b323b }
    .axis, .bound { stroke: #9da7b1 }
%s
  }
"""


@dataclass
class Curve:
    """Points (x, median, least, most) under one name."""

    name: str
    points: list


@dataclass
class Chart:
    """What a picture shows."""

    title: str
    x_name: str
    y_name: str
    curves: list
    # Straight lines to compare with: a name, and y at the least and the greatest x.
    bounds: list = field(default_factory=list)
    # Names of x = 0, 1, 2, ... where x is no quantity.
    steps: list = None
    # The least y that is shown, where that says more than the least one measured.
    y_from: float = None
    # What was measured where.
    source: str = ""


def main():
    pictures = {}
    for path in sorted(FOLDER.glob("*.jsonl")):
        run = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
        command = run[0]["command"]
        charts = CHARTS.get(command)
        if charts is None:
            sys.exit(f"{path}: no picture is made of {command!r}")
        for name, chart in charts(run).items():
            pictures[FOLDER / f"{path.stem}-{name}.svg"] = draw(chart)
    if "--check" in sys.argv[1:]:
        check(pictures)
        return
    for path, text in pictures.items():
        path.write_text(text, encoding="ascii", newline="\n")
        print(path.relative_to(FOLDER.parents[1]))


def check(pictures):
    """Ends with 1 when a picture is not what the JSON gives, is missing, or has none."""
    there = {path: path.read_bytes() for path in FOLDER.glob("*.svg")}
    wanted = {path: text.encode("ascii") for path, text in pictures.items()}
    wrong = sorted(path.name for path in there.keys() | wanted.keys()
                   if there.get(path) != wanted.get(path))
    if wrong or not wanted:
        names = ", ".join(wrong) or "no JSON at all"
        sys.exit(f"not what tools/plots/plot.py makes of docs/plots/*.jsonl: {names}")
    print(f"{len(wanted)} pictures are what their JSON gives")


# What is shown of a run, by its command.


def source(run):
    settings = run[0]["settings"]
    machine = settings["machine"]
    return (f"mapleaf {settings['version']} ({settings['commit']}), {machine['cores']} cores of "
            f"{machine['cpu']}, Linux {machine['kernel']}, load {machine['load_average']:.1f}")


def curve(run, series, figure, name, scale=1.0):
    points = []
    for line in run:
        settings = line["settings"]
        if settings["grows"] == series and line["measure"] == figure:
            values = (line["median"], line["min"], line["max"])
            points.append((settings[series], *(value * scale for value in values)))
    return Curve(name, points)


def growth(run):
    # What the others are while sessions grow, and while they do not.
    base = next(line["settings"] for line in run if line["settings"]["grows"] == "sessions")
    leaves = [point[0] for point in curve(run, "leaves", "opening and verifying", "").points]
    period = "processor, a period with changes"
    idle = "processor, a period without changes"
    session = "server memory a session"
    charts = {
        "time": Chart(
            f"A tree opens, and a replica joins ({base['size']} B a leaf)",
            "leaves", "milliseconds",
            [curve(run, "leaves", "late join", "late joiner is equal"),
             curve(run, "leaves", "opening and verifying", "open, all verified")]),
        "memory": Chart(
            "Memory of the server beside its file",
            "leaves", "bytes",
            [curve(run, "leaves", "server memory beside its file", "server")],
            [("24 B a leaf", 24 * leaves[0], 24 * leaves[-1])]),
        "leaves": Chart(
            "A period against the size of the tree",
            "leaves", "microseconds of the server's thread a period",
            [curve(run, "leaves", period, f"{base['changed']} leaves changed"),
             curve(run, "leaves", idle, "nothing changed")],
            y_from=1),
        "changed": Chart(
            f"A period against what changed in it ({base['leaves']:,} leaves)",
            "leaves changed in a period", "microseconds of the server's thread a period",
            [curve(run, "changed", period, "writes and EVENTs")]),
        "sessions": Chart(
            "A period against the number of sessions",
            "sessions", "microseconds of the server's thread a period",
            [curve(run, "sessions", period, f"{base['changed']} leaves changed"),
             curve(run, "sessions", idle, "nothing changed")]),
        "session-memory": Chart(
            "Memory of the server for each session",
            "sessions", "bytes a session, what comes with the first one included",
            [curve(run, "sessions", session, "each session")],
            [("1 KiB", 1024, 1024)], y_from=100),
        "size": Chart(
            f"What a leaf of another size costs ({base['leaves']:,} leaves)",
            "bytes of Data of a leaf", "milliseconds",
            [curve(run, "size", "late join", "late joiner is equal"),
             curve(run, "size", "opening and verifying", "open, all verified"),
             curve(run, "size", period, "1,000 leaves changed", 1e-3)]),
    }
    for chart in charts.values():
        chart.source = source(run)
    return charts


QUANTILES = ["p50", "p99", "p99.9", "longest"]


def times(run, what):
    """A curve a folder: the quantiles of some times."""
    options = run[0]["settings"]
    figures = {line["measure"]: line for line in run}
    curves = []
    for folder, medium in zip(options["folders"], options["media"]):
        points = []
        for at, quantile in enumerate(QUANTILES):
            told = figures[f"{folder}: {what}, {quantile}"]
            points.append((at, told["median"], told["min"], told["max"]))
        curves.append(Curve(medium, points))
    return curves


def disk(run):
    pages = f"{run[0]['settings']['pages']:,} pages"
    rate = f"{run[0]['settings']['rate']:,} changes a second"
    charts = {
        "updates": Chart(
            f"An update of a mapped tree, random over {pages}",
            "", "microseconds, with a processor", times(run, "updates, one that has a processor"),
            steps=QUANTILES),
        "turns": Chart(
            f"A turn of the server's loop at {rate}",
            "", "milliseconds, with a processor",
            times(run, "server, a turn that has a processor"),
            [("5 ms", 5, 5)], steps=QUANTILES),
    }
    for chart in charts.values():
        chart.source = source(run)
    return charts


CHARTS = {"growth": growth, "disk": disk}


# How it is drawn.


class Scale:
    """A logarithmic scale from values to a length in the picture."""

    def __init__(self, least, most, begin, end):
        self.low = math.floor(math.log10(least) + 1e-9)
        self.high = max(math.ceil(math.log10(most) - 1e-9), self.low + 1)
        self.begin, self.end = begin, end

    def place(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self):
        return [10.0 ** power for power in range(self.low, self.high + 1)]

    def small_ticks(self):
        """2 to 9 times each power of ten: the eye sees that the scale is logarithmic."""
        return [times * power for power in self.ticks()[:-1] for times in range(2, 10)]


class Steps:
    """Places of things that are no quantity, half a step from the ends."""

    def __init__(self, names, begin, end):
        self.names, self.begin, self.end = names, begin, end

    def place(self, value):
        return self.begin + (value + 0.5) / len(self.names) * (self.end - self.begin)

    def ticks(self):
        return range(len(self.names))

    def small_ticks(self):
        return []


def label(value):
    """1, 10, 100, 1 k, ... and 0.1, 0.01 below."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def text_at(x, y, text, kind="", anchor="start", more=""):
    kind = f' class="{kind}"' if kind else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}"{kind} text-anchor="{anchor}"{more}>'
            f"{escape(text)}</text>")


def line(kind, x1, y1, x2, y2):
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def mark(number, x, y):
    """A disc, a square, a triangle, a diamond: each curve has its own."""
    kind = f'class="m{number}"'
    if number == 0:
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    shapes = {1: [(-4, -4), (4, -4), (4, 4), (-4, 4)],
              2: [(0, -5), (5, 4), (-5, 4)],
              3: [(0, -5), (5, 0), (0, 5), (-5, 0)]}
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[number])
    return f'<polygon {kind} points="{corners}"/>'


def draw(chart):
    """The picture as text."""
    curves = [Curve(one.name, [p for p in one.points if p[1] > 0]) for one in chart.curves]
    curves = [one for one in curves if one.points]
    points = [point for one in curves for point in one.points]
    xs = [point[0] for point in points]
    lows = [max(point[2], point[1] / 100) for point in points]
    bounds = [value for _, *values in chart.bounds for value in values]
    lows = lows + bounds + ([chart.y_from] if chart.y_from else [])
    x_scale = (Steps(chart.steps, LEFT, RIGHT) if chart.steps
               else Scale(min(xs), max(xs), LEFT, RIGHT))
    y_scale = Scale(min(lows), max([point[3] for point in points] + bounds), BOTTOM, TOP)
    parts = frame(chart, x_scale, y_scale)
    names = []
    for name, first, last in chart.bounds:
        ends = (LEFT if chart.steps else x_scale.place(min(xs)), y_scale.place(first),
                RIGHT if chart.steps else x_scale.place(max(xs)), y_scale.place(last))
        parts.append(line("bound", *ends))
        names.append((ends[3], name, None))
    for number, one in enumerate(curves):
        parts += draw_curve(number, one, x_scale, y_scale)
        names.append((y_scale.place(one.points[-1][1]), one.name, number))
    parts += name_curves(names)
    return "\n".join([opening(chart), *parts, "</svg>", ""])


def opening(chart):
    style = STYLE % (colours("  ", LIGHT), colours("    ", DARK))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img">\n'
            f"<title>{escape(chart.title)}</title>\n<style>{style}</style>")


def colours(indent, of):
    """Rules for lines (c), marks (m) and names (t) of each curve."""
    rules = ".c{0} {{ stroke: {1} }} .m{0}, text.t{0} {{ fill: {1} }}"
    return "\n".join(indent + rules.format(number, colour) for number, colour in enumerate(of))


def frame(chart, x_scale, y_scale):
    """Ground, title, grid, axes with their units."""
    parts = [f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
             text_at(20, 30, chart.title, "title"),
             text_at(20, 50, chart.y_name, "small")]
    for value in y_scale.ticks():
        y = y_scale.place(value)
        parts += [line("grid", LEFT, y, RIGHT, y),
                  text_at(LEFT - 8, y + 4, label(value), anchor="end")]
    for value in x_scale.ticks():
        x = x_scale.place(value)
        parts += [line("grid", x, TOP, x, BOTTOM),
                  text_at(x, BOTTOM + 19, chart.steps[value] if chart.steps else label(value),
                          anchor="middle")]
    for value in y_scale.small_ticks():
        y = y_scale.place(value)
        parts.append(line("axis", LEFT, y, LEFT + 4, y))
    for value in x_scale.small_ticks():
        x = x_scale.place(value)
        parts.append(line("axis", x, BOTTOM - 4, x, BOTTOM))
    parts += [line("axis", LEFT, BOTTOM, RIGHT, BOTTOM), line("axis", LEFT, TOP, LEFT, BOTTOM),
              text_at((LEFT + RIGHT) / 2, BOTTOM + 38, chart.x_name, anchor="middle"),
              text_at(20, HEIGHT - 12, chart.source, "small")]
    return parts


def draw_curve(number, one, x_scale, y_scale):
    """A line through the medians, and a stroke from the least to the most at each."""
    places = [(x_scale.place(x), y_scale.place(y), low, high) for x, y, low, high in one.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
    parts = [f'<polyline class="line c{number}" points="{path}"/>']
    for (x, y, low, high), (_, median, _, _) in zip(places, one.points):
        ends = (y_scale.place(max(low, median / 100)), y_scale.place(high))
        parts += [line(f"spread c{number}", x, ends[0], x, ends[1]), mark(number, x, y)]
    return parts


def name_curves(names):
    """The names beside the ends of the curves, moved apart where they would overlap."""
    parts, last = [], -math.inf
    for y, name, number in sorted(names, key=lambda one: one[0]):
        y = max(y, last + LINE)
        last = y
        parts.append(text_at(RIGHT + 14, y + 4, name, "small" if number is None else f"t{number}"))
    return parts


if __name__ == "__main__":
    main()
