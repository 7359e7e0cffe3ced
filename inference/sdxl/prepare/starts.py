"""Makes the first latents of a picture that starts from another one: img2img, as diffusers' SDXL pipelines do it.

The VAE's encoder gives a mean and a deviation for each of the latents. They depend on the picture alone, so they are
kept by its content. What a row starts from is drawn from them and then noised to where its schedule begins, both by the
row's own generator.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter

from darkroom.inference.pose.picture import INIT_PICTURE, MASK_PICTURE, PictureLimits, decode_picture, named_content
from darkroom.inference.sdxl.denoise.rows import Overlay
from darkroom.inference.sdxl.finish.pictures import scaled_latents
from darkroom.inference.sdxl.prepare.cache import ByteCache
from darkroom.inference.types import CacheCounts, FaultKind, RenderFault
from darkroom.schemas.events.init import InitMask, InitPicture
from darkroom.schemas.events.pose import Fit

ASPECT_TOLERANCE: Final = 0.02
"""The share by which two aspects may differ that are meant to be the same: pictures are scaled to whole pixels."""


class _StartKey(NamedTuple):
    content: str
    width: int
    height: int
    fit: Fit


class Moments(NamedTuple):
    """The VAE's reading of a picture, (1, channels, latent height, width) on the CPU in the VAE's dtype."""

    mean: torch.Tensor
    deviation: torch.Tensor | None
    """None for a VAE that gives latents and no distribution of them, as AutoencoderTiny."""

    def drawn(self, noise: Callable[[torch.Size], torch.Tensor]) -> torch.Tensor:
        """Return latents drawn from the distribution, by fp32 noise of the given source; unscaled."""
        if self.deviation is None:
            return self.mean
        return self.mean + self.deviation * noise(self.mean.shape).to(self.mean.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.mean.nbytes + (0 if self.deviation is None else self.deviation.nbytes)


class Masked(NamedTuple):
    """A mask at the output's size, and what stays outside of it."""

    latent_mask: torch.Tensor
    """(1, 1, latent height, latent width) fp32 on the CPU: 1 where latents are painted, 0 where they are put back."""
    overlay: Overlay | None
    """None where pixels outside of the mask are not put back."""


class StartEncoder:
    """Encodes pictures to start from. Belongs to the prepare lane."""

    def __init__(
        self,
        vae: Any,
        *,
        limits: PictureLimits,
        cache_bytes_max: int,
        tiled_above_pixels: int,
        enter: Callable[[], None],
    ) -> None:
        """Make an encoder. `enter` brings the VAE to its device, where it moves; pictures above `tiled_above_pixels`
        are encoded in tiles, as they are decoded."""
        # A copy that shares the weights: the finish lane sets `use_tiling` of the VAE itself at any time.
        self._vae = copy.copy(vae)
        self._limits = limits
        self._tiled_above_pixels = tiled_above_pixels
        self._enter = enter
        self._cache: ByteCache[_StartKey, Moments] = ByteCache(cache_bytes_max, lambda moments: moments.nbytes)

    def read(self, init: InitPicture, stored: bytes | None, *, width: int, height: int) -> Moments:
        """Return what the VAE reads in a picture at this size. `stored` is the content of one that is only named.

        Raises `RenderFault` as `decode_picture` does, and for a named picture that was not fetched.
        """
        content = named_content(init.image, stored, INIT_PICTURE)
        key = _StartKey(hashlib.sha256(content).hexdigest(), width, height, init.fit)
        return self._cache.get_or_make(key, lambda: self._encode(content, key))

    def masked(
        self, mask: InitMask, init: InitPicture, stored: Mapping[str, bytes], *, width: int, height: int, factor: int
    ) -> Masked:
        """Return a mask at this size, of `factor` pixels for each latent along a side. `stored` is by field.

        Raises `RenderFault` as `read` does, and `invalid_request` for a mask that paints nothing or everything, or of
        another aspect than the picture's.
        """
        original = decode_picture(
            named_content(init.image, stored.get("init"), INIT_PICTURE), self._limits, INIT_PICTURE
        )
        drawn = decode_picture(named_content(mask.image, stored.get("mask"), MASK_PICTURE), self._limits, MASK_PICTURE)
        across, down = drawn.width * original.height, drawn.height * original.width
        if abs(across - down) > ASPECT_TOLERANCE * max(across, down):
            sizes = [f"{one.width} x {one.height}" for one in (drawn, original)]
            raise _wrong_mask(
                f"has {sizes[0]} pixels and the picture to start from {sizes[1]}: send one of the same aspect"
            )
        levels = fitted(drawn, width, height, init.fit).convert("L").point([0] * 128 + [255] * 128)
        # The nearest pixel of each of the latents, as diffusers interpolates masks.
        latent_mask = torch.from_numpy(np.asarray(levels, dtype=np.float32)[::factor, ::factor] / 255.0)[None, None]
        if not bool(latent_mask.any()):
            raise _wrong_mask("is empty: paint white what is to be painted, at least 16 pixels wide")
        if bool(latent_mask.all()):
            raise _wrong_mask("is full: leave the mask out to paint all of the picture")
        if not mask.composite:
            return Masked(latent_mask, None)
        # Never brighter than the mask itself, so that nothing outside of it changes.
        faded = ImageChops.darker(levels, levels.filter(ImageFilter.GaussianBlur(mask.blur))) if mask.blur else levels
        return Masked(latent_mask, Overlay(fitted(original, width, height, init.fit), faded))

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the VAE's latents on the scale of the UNet's."""
        return scaled_latents(self._vae.config, latents)

    def counts(self) -> Mapping[str, CacheCounts]:
        """Return the counts of `init`."""
        return {"init": self._cache.counts()}

    def reset(self) -> None:
        """Empty the cache and restart its counts."""
        self._cache.reset()

    def _encode(self, content: bytes, key: _StartKey) -> Moments:
        picture = fitted(decode_picture(content, self._limits, INIT_PICTURE), key.width, key.height, key.fit)
        levels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0).permute(2, 0, 1)[None]
        self._enter()
        vae = self._vae
        # In the dtype of the VAE's weights, which are fp32 where fp16 would overflow, as for decoding.
        colours = (2.0 * levels - 1.0).to(vae.device, vae.dtype)
        vae.use_tiling = key.width * key.height > self._tiled_above_pixels
        encoded = vae.encode(colours)
        if not hasattr(encoded, "latent_dist"):
            return Moments(_finite(encoded.latents).cpu(), None)
        found = encoded.latent_dist
        return Moments(_finite(found.mean).cpu(), _finite(found.std).cpu())


def fitted(picture: Image.Image, width: int, height: int, fit: Fit) -> Image.Image:
    """Return an RGB picture at `width` x `height` pixels, resized as diffusers' pipelines do (Lanczos).

    `contain` repeats the picture's edges where it does not reach, so that nothing is painted from a bar.
    """
    size = (width, height)
    if fit == "stretch":
        return picture.resize(size, Image.Resampling.LANCZOS)
    scales = (width / picture.width, height / picture.height)
    scale = max(scales) if fit == "cover" else min(scales)
    whole = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    resized = picture.resize(whole, Image.Resampling.LANCZOS)
    left, top = (width - whole[0]) // 2, (height - whole[1]) // 2
    if fit == "cover":
        return resized.crop((-left, -top, width - left, height - top))
    right, bottom = width - whole[0] - left, height - whole[1] - top
    return Image.fromarray(np.pad(np.asarray(resized), ((top, bottom), (left, right), (0, 0)), mode="edge"))


def _wrong_mask(how: str) -> RenderFault:
    return RenderFault(FaultKind.REQUEST, "invalid_request", f"{MASK_PICTURE} {how}.")


def _finite(moment: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(moment).all():
        raise RenderFault(
            FaultKind.REQUEST,
            "render_failed",
            f"{INIT_PICTURE} has latents that are not finite: this model's VAE overflows in {moment.dtype}, and its "
            "configuration does not say so (force_upcast); have the operator use bfloat16.",
        )
    return moment
