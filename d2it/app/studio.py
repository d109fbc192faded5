"""An exported folder as the page uses it: images of a map, and the map of a photograph.

Only `Pipeline.sample` draws, so the bytes are those of `d2it sample`.
"""

import base64
import io
import json
import math
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from d2it.app.asked import Asked, command, python, read
from d2it.config.check import check_ratio
from d2it.config.types import Ratio
from d2it.errors import UserError
from d2it.grains.entropy import entropy_map
from d2it.grains.maps import grain_map
from d2it.images.decode import centre_crop, read_rgb, reason
from d2it.sampling.exported import load

SEVERAL = 8  # images shown of one map: a block is drawn together, whoever asks for one
KEPT = 64  # drawings that are remembered, for reloads and second clicks


class Studio:
    def __init__(self, folder: str) -> None:
        self.folder, self.pipeline = folder, load(folder)
        self.together = math.gcd(self.pipeline.sampling.block, SEVERAL)  # never of two blocks
        self._drawn = lru_cache(KEPT)(self._draw)

    def facts(self) -> dict[str, Any]:
        """What the page offers: only what these networks can do."""
        pipe, maps = self.pipeline, self.pipeline.maps
        numbers = range(pipe.network.architecture["classes"])
        return {
            "folder": self.folder,
            "paints": pipe.kind == "content",
            "classes": pipe.classes or [str(number) for number in numbers],
            "grains": pipe.grains,
            "side": maps.side,
            "elastic": maps.learned == "random",
            "ratio": maps.ratio,
            "steps": pipe.sampling.steps,
            "most_steps": pipe.diffusion.timesteps,
            "guidance": pipe.guidance,
        }

    def draw(self, text: str) -> dict[str, Any]:
        """The answer to a request: the image that was asked for, among those drawn with it."""
        asked = self._beside_own(read(text))
        first = asked.seed - asked.seed % self.together
        drawn = self._drawn(json.dumps(vars(replace(asked, seed=first))))
        words = {"command": command(self.folder, asked), "python": python(self.folder, asked)}
        return drawn | words

    def _beside_own(self, asked: Asked) -> Asked:
        """What differs from the folder's own settings, so that the words are few."""
        pipe = self.pipeline
        own = {
            "steps": pipe.sampling.steps,
            "guidance": pipe.guidance,
            "ratio": pipe.maps.ratio,
        }
        same: Any = {name: None for name in own if getattr(asked, name) == own[name]}
        return replace(asked, **same)

    def _draw(self, text: str) -> dict[str, Any]:
        """The images from the seed on; `text` is a request in JSON, which can be remembered."""
        asked = read(text)
        pipe = self.pipeline.using(steps=asked.steps, guidance=asked.guidance)
        map = None if asked.map is None else np.array(asked.map)
        began = time.monotonic()
        images, maps = pipe.sample(
            self.together, asked.label, map=map, first=asked.seed, ratio=asked.ratio
        )
        seconds = time.monotonic() - began
        return {
            "first": asked.seed,
            "images": [png(image) for image in images],
            "maps": maps.tolist(),
            "codes": (4**maps).sum((1, 2)).tolist(),  # a region of grain g has 4^g
            "most_codes": maps[0].size * 4 ** (pipe.grains - 1),
            "gmacs": pipe.gmacs(maps).tolist(),
            "passes": pipe.sampling.steps * (1 if pipe.guidance == 1 else 2),
            "milliseconds": round(1000 * seconds),
            "block": pipe.sampling.block,
        }

    def map_of(self, photograph: bytes, ratio: str) -> list[list[int]]:
        """The grain map of a photograph, by the thresholds of the training's images: at this ratio,
        or (empty) at the folder's own.
        """
        pipe, header = self.pipeline, self.pipeline.header
        size, kernel = (
            pipe.dvae.architecture["size"],
            (header.sigma, header.bins, header.grey_range),
        )
        try:
            pixels = np.array(centre_crop(read_rgb(io.BytesIO(photograph)), size))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"The file cannot be read as an image ({reason(error)}).") from None
        entropy = entropy_map(torch.from_numpy(pixels)[None], size // pipe.maps.side, *kernel)
        cuts = pipe.cuts(ratio_of(ratio, pipe.grains) if ratio else None)
        return grain_map(entropy, cuts)[0].tolist()


def ratio_of(text: str, grains: int) -> Ratio:
    try:
        finer = [float(share) for share in text.split(",")]
    except ValueError:
        raise UserError(f"The ratio {text!r} is no number.") from None
    ratio = finer[0] if len(finer) == 1 else finer
    check_ratio(ratio, grains, "ratio")
    return ratio


def png(pixels: np.ndarray) -> str:
    """The file that `d2it sample` writes, in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
