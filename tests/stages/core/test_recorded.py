"""Hashes of outputs: ours are DVC's."""

from __future__ import annotations

from pathlib import Path

from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree

from stages.core import recorded
from stages.core.files import write_json, write_text


def test_a_folder_has_dvc_s_hash(tmp_path: Path) -> None:
    """Names whose order as texts differs from that of their parts."""
    for name in ("b/c.txt", "b.txt", "a", "b-x/é.txt", "b/c/d"):
        if name != "b/c/d":
            write_text(tmp_path / name, f"content of {name}")
    write_text(tmp_path / "b/d/e", "deeper")
    found = recorded.files_now(tmp_path)
    tree = Tree()
    for name, md5 in found.items():
        tree.add(tuple(name.split("/")), None, HashInfo("md5", md5))
    tree.digest()
    assert tree.hash_info and recorded.hash_of(found) == tree.hash_info.value


def test_a_file_has_its_own_hash(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "")
    assert (
        recorded.hash_of(recorded.files_now(tmp_path / "x")) == "d41d8cd98f00b204e9800998ecf8427e"
    )


def test_files_of_a_folder_are_read_from_the_cache(tmp_path: Path) -> None:
    md5 = "ab" + "0" * 30 + ".dir"
    assert recorded.files(tmp_path, md5) is None
    write_json(tmp_path / "ab" / md5[2:], [{"relpath": "x/y", "md5": "1"}])
    assert recorded.files(tmp_path, md5) == {"x/y": "1"}
    assert recorded.files(tmp_path, "12") == {"": "12"}
