from pathlib import Path

import pytest
import yaml

from stages.core.errors import UserError
from stages.prepare import datalock

ROOT = Path(__file__).parents[3]


def test_project_lock_reads_and_is_whole() -> None:
    lock = datalock.read(ROOT)
    voices = [p.voice for p in lock.of("sepprune").values() if p.voice]
    assert len({v.id for v in voices}) == len({v.speaker for v in voices}) == 7
    assert len({p.sha256 for p in lock.packages.values()}) == len(lock.packages)


def test_notice_names_every_package_author_and_licence() -> None:
    notice = (ROOT / "NOTICE").read_text()
    entries = notice.split("\n\n", 1)[1]
    for name, package in datalock.read(ROOT).packages.items():
        entry = entries.split(f"\n{name}\n", 1)[1].split("\nasterisk-", 1)[0]
        assert f"Licence: {package.licence}" in entry
        assert package.author in " ".join(entry.split())
    assert "http://www.voip.ammdomus.it" in notice  # what this author asks for


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sha256": "12"}, "a-package.sha256"),
        ({"licence": None}, "a-package.licence"),
        ({"colour": "red"}, "a-package.colour"),
        ({"index": "npm"}, "a-package.index"),
    ],
)
def test_malformed_entry_is_named(tmp_path: Path, change: dict[str, object], word: str) -> None:
    entry = {
        "index": "debian",
        "version": "1",
        "sha256": "0" * 64,
        "bytes": 1,
        "licence": "CC-BY-3.0",
        "author": "A",
        "attribution": "by A",
        "take": ["x"],
        "papers": ["p"],
    }
    path = tmp_path / "data.lock"
    path.write_text(yaml.safe_dump({"packages": {"a-package": entry}}))
    assert datalock.read(tmp_path).of("p", "debian").keys() == {"a-package"}
    assert not datalock.read(tmp_path).of("other")
    path.write_text(yaml.safe_dump({"packages": {"a-package": entry | change}}))
    with pytest.raises(UserError, match=word):
        datalock.read(tmp_path)


def test_missing_lock_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.lock is missing"):
        datalock.read(tmp_path)


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["CC-BY-3.0", "CC-BY-3.0"], "CC-BY-3.0"),
        (["CC-BY-3.0", "CC-BY-SA-3.0"], "CC-BY-SA-3.0"),
        (["CC-BY-SA-3.0", "CC-BY-SA-3.0-IT"], "CC-BY-SA-3.0"),
        (["BSD-style", "CC-BY-SA-3.0-IT"], "CC-BY-SA-3.0"),
        (["BSD-style", "BSD-style"], "BSD-style"),
        (["BSD-style", "GPL-2.0-only"], "GPL-2.0-only"),
        (["CC-BY-SA-3.0", "GPL-2.0-only"], ""),
        (["CC-BY-3.0", "GPL-2.0-only"], ""),
        (["CC-BY-3.0", "some other text"], ""),
        ([], ""),
    ],
)
def test_licence_of_a_mixture(parts: list[str], whole: str) -> None:
    assert datalock.combined(parts) == whole
    assert datalock.combined(parts[::-1]) == whole
