"""Deletes working files, and says what DVC's cache may drop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from stages.core.files import listing, remove

WORKING = ("work/.scratch", "work/.resume", "work/.logs")


def clean(root: Path, gc: bool) -> int:
    """Delete scratch, checkpoints and logs; results, also those of other profiles, stay.

    Args:
        gc: drop from DVC's cache what neither the working tree nor any branch or tag uses.
    """
    console = Console(highlight=False)
    for name in WORKING:
        folder = root / name
        if folder.is_dir():
            size = sum(f.stat().st_size for f in listing(folder) if not f.is_symlink())
            remove(folder)
            console.print(f"deleted {name} ({size / 2**20:.0f} MB)")
    command = [sys.executable, "-m", "dvc", "gc", "--workspace", "--all-branches", "--all-tags"]
    for tree in sorted((root / "work/.profiles").glob("*/.dvc")):
        command += ["--projects", str(tree.parent)]
    command += ["--force"] if gc else ["--dry", "--force"]
    console.print("DVC's cache, beyond what the tree, the branches and the tags use:")
    code = subprocess.run(command, cwd=root, check=False).returncode
    if not gc:
        console.print("nothing was dropped from the cache; `make clean GC=1` drops it")
    return code
