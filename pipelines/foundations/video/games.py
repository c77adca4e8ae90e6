"""Clips of video games, played here: an emulated console, its stick held one way.

Rendered at run time by the emulator of the Arcade Learning Environment (Bellemare et al., arXiv
1207.4708; package ale-py), whose wheel carries the games. Each clip is a game of its own: some
steps at random, which lead to a state of its own, then one action held while frames are kept; the
caption names both. Nothing is left to the console's own chance: a clip is a function of its name.

The games belong to their makers, whatever the package's licence says: what is made of them stays
in `work/`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pipelines.foundations.video.data import SPLITS
from pipelines.foundations.video.made import Bytes, Counts, Form, Made, Part, turns
from stages.core import params as core
from stages.core.errors import UserError
from stages.core.seeding import numpy_generator
from stages.prepare.rasters import scaled

if TYPE_CHECKING:
    from stages.core.job import Job

Action = Literal["noop", "fire", "up", "right", "left", "down"]
SAID: dict[str, str] = {
    "noop": "the stick at rest",
    "fire": "the button pressed",
    "up": "the stick up",
    "right": "the stick to the right",
    "left": "the stick to the left",
    "down": "the stick down",
}
"""Actions, and how a caption says them."""
TRIES = 50
"""Games that may end before a clip is whole; more than that, and the game is always over."""


class Games(core.Params):
    """
    Attributes:
        games: as ale-py calls them, such as pong or space_invaders.
        actions: held while a clip is taken; of these, those that the game knows.
        every: console frames (60 a second) from one frame of a clip to the next.
        least, most: steps at random before a clip, of `every` console frames each.
    """

    games: Annotated[list[str], Field(min_length=1)]
    actions: Annotated[list[Action], Field(min_length=1)]
    every: int = Field(ge=1, le=60)
    least: int = Field(ge=0)
    most: int = Field(ge=0)

    @model_validator(mode="after")
    def _sound(self) -> Games:
        if any(len(set(each)) < len(each) for each in (self.games, self.actions)):
            raise ValueError("a game or an action stands twice")
        if self.most < self.least:
            raise ValueError("least is more than most")
        return self


def caption(game: str, action: str) -> str:
    """Such as "space invaders with the stick to the left"."""
    return f"{game.replace('_', ' ')} with {SAID[action]}"


def make(recipe: Games, form: Form, counts: Counts, seed: int, job: Job) -> Made:
    """Play and film; clip n is the same however many follow it.

    Raises:
        UserError: ale-py is not installed, or has no such game, or a game knows none of the
            actions or is always over.
    """
    consoles = {game: Console(game, recipe.every) for game in recipe.games}
    kinds = [
        (game, action)
        for game in recipe.games
        for action in recipe.actions
        if action in consoles[game].actions
    ]
    dumb = sorted(set(recipe.games) - {game for game, _ in kinds})
    if dumb:
        raise UserError(
            f"params.yaml: {dumb[0]} knows none of foundations.video.prepare.games.actions; it "
            f"knows {', '.join(sorted(set(consoles[dumb[0]].actions) & set(SAID)))}"
        )
    parts: dict[str, Part] = {}
    with job.progress(sum(getattr(counts, split) for split in SPLITS), "playing") as bar:
        for split in SPLITS:
            clips, labels, names = [], [], []
            for place, kind in enumerate(turns(getattr(counts, split), len(kinds)).tolist()):
                game, action = kinds[kind]
                film = _film(consoles[game], action, recipe, form.frames, (seed, split, place))
                clips.append(scaled(film, form.height, form.width))
                labels.append((recipe.games.index(game), recipe.actions.index(action)))
                names.append(caption(game, action))
                bar.advance(note=game)
            parts[split] = Part(np.stack(clips), np.array(labels, dtype=np.int64), names)
    return Made(
        parts,
        {"game": recipe.games, "action": list(recipe.actions)},
        {
            "dataset": "games",
            "author": "the games' makers; emulator by Bellemare, Naddaf, Veness and Bowling",
            "origin": "Arcade Learning Environment, https://ale.farama.org",
            "licence": "GPL-2.0-only (emulator); the games are their makers', not to be handed on",
            "from": consoles[recipe.games[0]].version,
            "sha256 of its source": {game: consoles[game].digest for game in recipe.games},
            "recipe": recipe.model_dump(),
            "sources": {split: getattr(counts, split) for split in SPLITS},
            "source is": "game played from its start",
        },
    )


class Console:
    """A game in the emulator.

    Attributes:
        actions: name -> the emulator's action, of those that the game knows.
        digest: SHA-256 of the game.
        version: of the emulator.
    """

    def __init__(self, game: str, every: int) -> None:
        try:
            import ale_py
            from ale_py import roms
        except ImportError:
            raise UserError(
                "games are played with the package ale-py: "
                ".venv/bin/pip install -c constraints.txt ale-py"
            ) from None
        known = roms.get_all_rom_ids()
        if game not in known:
            raise UserError(
                f"params.yaml: foundations.video.prepare.games: unknown game '{game}'; "
                f"allowed: {', '.join(sorted(known))}"
            )
        path = Path(str(roms.get_rom_path(game)))
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.version = f"ale-py {ale_py.__version__}"
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.every = every
        self.emulator: Any = ale_py.ALEInterface()
        self.emulator.setInt("random_seed", 0)
        self.emulator.setFloat("repeat_action_probability", 0.0)
        self.emulator.loadROM(path)
        self.actions = {a.name.lower(): a for a in self.emulator.getMinimalActionSet()}

    def reset(self) -> None:
        self.emulator.reset_game()

    def step(self, action: str) -> bool:
        """Hold an action for `every` console frames; say whether the game goes on."""
        for _ in range(self.every):
            self.emulator.act(self.actions[action])
        return not self.emulator.game_over()

    def screen(self) -> Bytes:
        """(H, W, 3)."""
        shown: Bytes = self.emulator.getScreenRGB()
        return shown


def _film(
    console: Console, action: str, recipe: Games, frames: int, seed: tuple[int, str, int]
) -> Bytes:
    """One clip (T, H, W, 3), at the console's own size."""
    rng = numpy_generator("games", *seed)
    known = sorted(console.actions)
    for _ in range(TRIES):
        console.reset()
        steps = int(rng.integers(recipe.least, recipe.most + 1))
        going = all(
            console.step(known[int(choice)]) for choice in rng.integers(len(known), size=steps)
        )
        film: list[Bytes] = []
        while going and len(film) < frames:
            film.append(console.screen())
            going = console.step(action)
        if len(film) == frames:
            return np.stack(film)
    raise UserError(
        f"params.yaml: {TRIES} games ended before {frames} frames were taken; make least and most "
        "of foundations.video.prepare.games smaller"
    )
