"""How figures look: one style, drawn once, in the reader's light or dark colors."""

import base64
import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, MUTED, LINES, ACCENT, ON_ACCENT = "#1f2430", "#667085", "#dfe3e8", "#2f62d9", "#fefefe"
# Of methods: light, dark. Beyond twelve they come again, with other markers.
_METHODS = {
    "#77808c": "#a5adb8",
    "#c2570c": "#f08c3c",
    ACCENT: "#7ba3ff",
    "#2b8a3e": "#63c177",
    "#8f3fb0": "#cf8eea",
    "#0b7f8a": "#4cc3ce",
    "#b02a53": "#f27a9d",
    "#8a6d0b": "#d4b64a",
    "#4b5bd6": "#9fa8ff",
    "#5c7f2b": "#a9cf6f",
    "#a1467e": "#e59bc9",
    "#8b4a2f": "#d79a80",
}
_DARK = {INK: "#e6e8ec", MUTED: "#9aa4b2", LINES: "#343b46", ON_ACCENT: "#fdfdfd", **_METHODS}
_STYLE: Any = {
    "svg.fonttype": "none",  # real text: small, sharp, selectable
    "svg.hashsalt": "semimae",  # the same input gives the same bytes
    "font.sans-serif": ["DejaVu Sans"],  # to measure with; the reader's own font is shown
    "font.size": 9,
    "text.parse_math": False,  # a class may be called $5
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINES,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
}
MARKERS = "soD^vPX"
WIDTH = 4.6  # inches; still readable when scaled down to a phone


def draw(paint: Callable[[Axes], None], height: float = 3.1) -> str:
    """Return an SVG with one pair of axes; it follows the reader's color scheme."""
    return draw_panels(lambda axes: paint(axes[0]), 1, height)


def draw_panels(paint: Callable[[list[Axes]], None], panels: int, height: float) -> str:
    """Return an SVG of panels below each other that share the horizontal axis."""
    return _draw(paint, panels, 1, height)


def draw_grid(paint: Callable[[list[Axes]], None], rows: int, columns: int) -> str:
    """Return an SVG of square panels, row by row."""
    return _draw(paint, rows, columns, rows * (WIDTH / columns + 0.2))


def _draw(paint: Callable[[list[Axes]], None], rows: int, columns: int, height: float) -> str:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's font has the letters that the measuring one lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=columns == 1, squeeze=False).flatten()
        paint(list(axes))
        handles = {
            label: handle
            for some in axes
            for handle, label in zip(*some.get_legend_handles_labels(), strict=True)
        }
        if handles:  # above the axes, where it covers nothing
            widest = max(1, int(62 / (6 + np.mean([len(label) for label in handles]))))
            figure.legend(
                handles.values(),
                handles.keys(),
                loc="outside upper left",
                ncols=widest,
                labelcolor=INK,
            )
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return _themed(buffer.getvalue())


def data_uri(svg: str) -> str:
    """Return an SVG as an address that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def method_look(methods: list[str], method: str) -> tuple[str, str]:
    """Return a method's color and marker."""
    index = methods.index(method)
    return list(_METHODS)[index % len(_METHODS)], MARKERS[index % len(MARKERS)]


def line_colors() -> list[str]:
    """Return colors for lines that are not methods."""
    return [INK, *list(_METHODS)[1:]]


def fading(color: str = ACCENT) -> LinearSegmentedColormap:
    """Return a color map from transparent to a color, for light and dark alike."""
    return LinearSegmentedColormap.from_list(
        "fading", [(*to_rgb(color), 0.0), (*to_rgb(color), 1.0)]
    )


def contact_sheet(
    images: NDArray[np.uint8], min_side: int = 64, max_side: int = 128
) -> NDArray[np.uint8]:
    """Put images ``[N, H, W, C]`` side by side, RGBA with clear gaps; pixels stay sharp squares."""
    side = max(images.shape[1:3])
    images = images[:, :: -(-side // max_side), :: -(-side // max_side)]
    zoom = -(-min_side // max(images.shape[1:3]))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    if images.shape[3] == 1:
        images = images.repeat(3, axis=3)
    opaque = np.full((*images.shape[:3], 1), 255, dtype=np.uint8)
    tiles = np.concatenate([images, opaque], axis=3)
    gap = max(2, tiles.shape[2] // 16)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, 0)))
    sheet: NDArray[np.uint8] = np.concatenate(list(tiles), axis=1)[:, :-gap]
    return sheet


def _themed(svg: str) -> str:
    """Turn the light colors into variables with a dark value, and the font into the reader's."""
    light, dark = [], []
    for i, (color, night) in enumerate(_DARK.items()):
        if color in svg:
            svg = svg.replace(color, f"var(--c{i})")
            light.append(f"--c{i}:{color}")
            dark.append(f"--c{i}:{night}")
    style = (
        f":root{{{';'.join(light)}}}@media(prefers-color-scheme:dark){{:root{{{';'.join(dark)}}}}}"
    )
    svg = svg.replace('<style type="text/css">', f'<style type="text/css">{style}', 1)
    return svg.replace("'DejaVu Sans', sans-serif", "system-ui, 'Segoe UI', Roboto, sans-serif")
