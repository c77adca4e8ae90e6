"""Pictures: the same bytes everywhere, readable for everybody; exhibits: checked when listed."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core import pictures
from stages.core.pictures import DARK, LIGHT, Theme, add_exhibit, read_exhibits, save

ROOT = Path(__file__).resolve().parents[3]
TEXTS = {"title": "Title", "caption": "How to read it.", "alt": "What it shows."}


def draw(theme: Theme) -> Any:
    figure, axes = theme.axes(4, 3, xlabel="x", ylabel="y")
    for i in range(3):
        axes.plot([0, 1, 2], [i, i + 1, i * i], label=f"arm {i}", **theme.style(i))
    axes.imshow(np.eye(8), extent=(0, 1, 0, 1))
    axes.legend()
    return figure


def test_both_themes_are_written_and_listed(tmp_path: Path) -> None:
    save(tmp_path, "curve", draw, **TEXTS)
    light = (tmp_path / "pictures/curve.svg").read_text()
    dark = (tmp_path / "pictures/curve.dark.svg").read_text()
    assert LIGHT.text in light and LIGHT.text not in dark and DARK.text in dark
    assert read_exhibits(tmp_path) == [
        {"kind": "picture", "name": "curve", "file": "pictures/curve.svg", "group": "", **TEXTS}
    ]


def test_bytes_depend_on_the_numbers_alone(tmp_path: Path) -> None:
    """Another process, hash seed, folder and matplotlibrc give the same picture."""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nsvg.fonttype: none\n")
    code = (
        "import sys; from pathlib import Path; from tests.stages.core.test_pictures import draw\n"
        "from stages.core.pictures import LIGHT, render\n"
        "sys.stdout.buffer.write(render(draw, LIGHT))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "77", "MATPLOTLIBRC": str(tmp_path)},
        capture_output=True,
        check=True,
    ).stdout
    assert found == pictures.render(draw, LIGHT)
    assert b"date" not in found.lower() and b"<text" not in found


def test_drawing_leaves_the_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    pictures.render(draw, DARK)
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_loads_only_when_something_is_drawn() -> None:
    code = "import sys, stages.core.pictures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_picture_too_large_is_refused(tmp_path: Path) -> None:
    def heavy(theme: Theme) -> Any:
        figure, axes = theme.axes()
        axes.scatter(*np.random.default_rng(0).random((2, 20_000)))
        return figure

    with pytest.raises(ValueError, match="fewer points"):
        save(tmp_path, "heavy", heavy, **TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "film"}, "kind 'film'"),
        ({"file": "/etc/hostname"}, "not a file inside"),
        ({"file": "../a.svg"}, "not a file inside"),
        ({"file": "missing.svg"}, "not a file inside"),
        ({"alt": ""}, "needs caption and alt"),
        ({"title": ""}, "give a title"),
    ],
)
def test_bad_exhibits_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.svg").write_text("<svg/>")
    with pytest.raises(ValueError, match=message):
        add_exhibit(out, **({"kind": "picture", "name": "a", "file": "a.svg"} | TEXTS | change))
    assert read_exhibits(out) == []


def test_a_name_stands_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    add_exhibit(tmp_path, kind="table", name="a", file="a.csv", title="A")
    with pytest.raises(ValueError, match="listed already"):
        add_exhibit(tmp_path, kind="table", name="a", file="a.csv", title="A")


def _linear(colour: str) -> np.ndarray:
    """Linear RGB of "#rrggbb"."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


# Full protanopia, deuteranopia, tritanopia on linear RGB (Machado et al. 2009, table 1).
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    x = np.array(TO_XYZ) @ np.clip(linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_are_told_apart_by_everybody(theme: Theme) -> None:
    for matrix in VISION.values():
        seen = [_lab(np.array(matrix) @ _linear(colour)) for colour in theme.cycle]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 16
    light = {colour: _linear(colour) @ TO_XYZ[1] + 0.05 for colour in (*theme.cycle, theme.panel)}
    ground = light[theme.panel]
    for colour in theme.cycle:
        assert max(light[colour], ground) / min(light[colour], ground) >= 3, colour
    styles = [(s["color"], s["marker"], str(s["linestyle"])) for s in map(theme.style, range(32))]
    assert len(set(styles)) == 32
