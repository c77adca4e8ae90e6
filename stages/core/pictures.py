"""Pictures and other exhibits of a stage: what the report shows of a stage's folder.

A stage calls `save` with a function that draws; the picture is drawn once for a light and once for
a dark page. Its bytes depend on the numbers alone: no date, no random id, matplotlib's own font
drawn as outlines, and none of the settings that a user's matplotlibrc may hold.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from stages.core.files import read_json, write_json
from stages.core.themes import DARK, LIGHT, Theme, settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Theme", "add_exhibit", "read_exhibits", "render", "save"]

EXHIBITS = "exhibits.json"
KINDS = ("picture", "audio", "table")
LARGEST = 400_000  # bytes of one SVG: a page with ten such pictures still opens fast on a phone
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def save(
    out: Path,
    name: str,
    draw: Callable[[Theme], Figure],
    *,
    title: str,
    caption: str,
    alt: str,
    group: str = "",
) -> None:
    """Draw a picture for both themes and list it among the stage's exhibits.

    Writes `pictures/<name>.svg` and `pictures/<name>.dark.svg`, ground transparent. A raster
    (`imshow`) may be part of it when it is small.

    Args:
        out: the stage's output folder.
        name: file name without ending; lower case letters, digits, "-" and "_".
        draw: makes the figure for a theme. It must draw the same content each time, take every
            colour from the theme, and draw nothing at random.
        title: what the picture shows, in a few words (the report's heading; not drawn inside).
        caption: how to read it.
        alt: what a reader who cannot see it must know: the finding, not the looks.
        group: pictures of one group stand together.

    Raises:
        ValueError: bad or repeated name, missing text, or a picture above `LARGEST` bytes.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"picture name {name!r}: use lower case letters, digits, '-' and '_'")
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for theme, ending in ((LIGHT, ".svg"), (DARK, ".dark.svg")):
        data = render(draw, theme)
        if len(data) > LARGEST:
            raise ValueError(
                f"picture {name!r} takes {len(data)} bytes, more than {LARGEST}: "
                "draw fewer points, or a smaller raster"
            )
        (folder / (name + ending)).write_bytes(data)
    add_exhibit(
        out,
        kind="picture",
        name=name,
        file=f"pictures/{name}.svg",
        title=title,
        caption=caption,
        alt=alt,
        group=group,
    )


def render(draw: Callable[[Theme], Figure], theme: Theme) -> bytes:
    """Draw a figure as SVG; the same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change a result file
        matplotlib.rcParams.update(settings(theme))
        figure = draw(theme)
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return buffer.getvalue()


def add_exhibit(
    out: Path,
    *,
    kind: str,
    name: str,
    file: str,
    title: str,
    caption: str = "",
    alt: str = "",
    group: str = "",
) -> None:
    """List something for the report in `out/exhibits.json`, in the order of the calls.

    Args:
        out: the stage's output folder.
        kind: "picture", "audio" or "table" (a CSV file with a header line).
        name: unique within the stage.
        file: path of a file inside `out`, with "/".
        title: heading, or the label of an audio clip.
        caption: how to read or hear it.
        alt: text for those who cannot see it; needed for a picture.
        group: audio clips of one mixture, or pictures that stand together.

    Raises:
        ValueError: unknown kind, repeated name, missing text, or a file that is not inside `out`.
    """
    if kind not in KINDS:
        raise ValueError(f"exhibit {name!r}: kind {kind!r} is none of {', '.join(KINDS)}")
    if not title or (kind == "picture" and not (caption and alt)):
        raise ValueError(f"exhibit {name!r}: give a title; a picture needs caption and alt too")
    parts = PurePosixPath(file).parts
    if not parts or parts[0] == "/" or ".." in parts or not (out / file).is_file():
        raise ValueError(f"exhibit {name!r}: {file!r} is not a file inside the stage's folder")
    listed = read_exhibits(out)
    if any(entry["name"] == name for entry in listed):
        raise ValueError(f"exhibit {name!r} is listed already")
    entry = {"kind": kind, "name": name, "file": file, "title": title}
    listed.append(entry | {"caption": caption, "alt": alt, "group": group})
    write_json(out / EXHIBITS, listed)


def read_exhibits(folder: Path) -> list[dict[str, str]]:
    """Read the exhibits of a stage folder, in the order they were added; [] when it lists none."""
    path = folder / EXHIBITS
    return list(read_json(path)) if path.is_file() else []
