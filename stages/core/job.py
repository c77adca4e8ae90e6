"""What a stage is given to work with."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.dag import Node
from stages.core.errors import UserError
from stages.core.progress import Progress, progress

if TYPE_CHECKING:
    import torch


class Inputs:
    """Folders of earlier stages, by stage name, as dvc.yaml's deps list them."""

    def __init__(self, root: Path, node: Node) -> None:
        self.root, self.node = root, node

    def __getitem__(self, name: str) -> Path:
        folder = self.node.input_folder(name)
        if folder is None:
            raise UserError(
                f"{self.node.address} does not list work/…/{name} among its deps; add it there"
            )
        path = self.root / folder
        if not path.exists():
            raise UserError(f"missing input: {folder}; `dvc repro` makes it, `dvc pull` fetches it")
        return path

    def __contains__(self, name: str) -> bool:
        folder = self.node.input_folder(name)
        return folder is not None and (self.root / folder).exists()


@dataclass(frozen=True)
class Job:
    """One run of one stage.

    Attributes:
        root: the project's root.
        node: the stage as dvc.yaml lists it.
        seeds: the seeds this run covers, empty where the stage has no seeds.
        resume: a folder that survives a kill, keyed by all that can change the output.
        log: the stage's log.
        track: where metrics and pictures are sent (see stages/core/tracking).
    """

    root: Path
    node: Node
    seeds: tuple[int, ...]
    device_wish: str
    resume: Path
    log: logging.Logger
    track: Any

    @property
    def paper(self) -> str:
        return self.node.paper

    @property
    def stage(self) -> str:
        return self.node.stage

    @property
    def variant(self) -> str | None:
        return self.node.variant

    @cached_property
    def device(self) -> torch.device:
        """The torch device.

        Raises:
            UserError: `common.device` is cuda and there is none.
        """
        import torch

        there = torch.cuda.is_available()
        if self.device_wish == "cuda" and not there:
            raise UserError(
                "params.yaml: 'common.device' is 'cuda', but torch sees no CUDA device; "
                "use 'cpu' or 'auto', or install a CUDA build of torch (README, 'Set-up')"
            )
        return torch.device("cuda" if there and self.device_wish != "cpu" else "cpu")

    def progress(self, total: int, label: str) -> AbstractContextManager[Progress]:
        return progress(total, label)

    def unit(self, name: str) -> Path:
        """A folder for one unit of work that must survive a kill. Write there atomically."""
        folder = self.resume / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
