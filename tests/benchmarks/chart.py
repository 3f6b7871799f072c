"""The figures with a target as one SVG: how far each is from what it is held to. Plain text, light and dark."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tests.benchmarks.figure import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.figure import Figure

_WIDTH, _LABELS, _VALUES = 1080, 440, 310
_ROW, _BAR, _TOP = 26, 14, 58
#: A bar ends here, in multiples of the target.
_LONGEST = 3.0

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.quiet { fill: #59636e; font-size: 12px }
.met { fill: #2a7f62 } .missed { fill: #b3541e }
.target { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .quiet { fill: #9198a1 } .met { fill: #4fc59a } .missed { fill: #f0883e }
  .target { stroke: #e6edf3 }
}
"""


def draw(figures: Sequence[Figure], *, note: str) -> str:
    """One bar for each figure with a target. Right of the line is met."""
    shown = [figure for figure in figures if figure.met is not None]
    unit = (_WIDTH - _LABELS - _VALUES) / _LONGEST
    height = _TOP + _ROW * len(shown) + 34
    line = _LABELS + unit
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<style>{_STYLE}</style>",
        '<text class="title" x="12" y="24">Figures against their targets</text>',
        f'<text class="quiet" x="{line:.0f}" y="46" text-anchor="middle">target</text>',
    ]
    for n, figure in enumerate(shown):
        parts += _row(figure, _TOP + n * _ROW, unit)
    bottom = _TOP + _ROW * len(shown)
    parts += [
        f'<line class="target" x1="{line:.1f}" x2="{line:.1f}" y1="{_TOP - 6}" y2="{bottom}"/>',
        f'<text class="quiet" x="12" y="{bottom + 22}">{escape(note)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _row(figure: Figure, top: int, unit: float) -> list[str]:
    score = _score(figure)
    length = min(score, _LONGEST) * unit
    middle = top + _BAR / 2 + 5
    shown = f"{figure.ratio:.2f} x" if figure.ratio is not None else f"{short(figure.value)} {figure.unit}"
    value = escape(f"{shown} ({figure.target})")
    kind = "met" if figure.met else "missed"
    bar = f'class="{kind}" x="{_LABELS}" y="{top}" width="{max(length, 1):.1f}"'
    return [
        f'<text x="12" y="{middle:.0f}">{escape(_shortened(figure.name))}</text>',
        f'<rect {bar} height="{_BAR}" rx="2"><title>{escape(figure.name)}</title></rect>',
        f'<text class="quiet" x="{_WIDTH - _VALUES + 10}" y="{middle:.0f}">{value}</text>',
    ]


def _score(figure: Figure) -> float:
    """How good, in multiples of the target: 1 is just met."""
    number = figure.value if figure.ratio is None else figure.ratio
    limit = float(figure.target.split()[2].replace(",", ""))
    if figure.target.startswith("at least"):
        return number / limit
    return limit / number if number > 0 else _LONGEST


def _shortened(name: str) -> str:
    return name if len(name) <= 62 else f"{name[:60]}…"
