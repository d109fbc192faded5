"""How well a DVAE reconstructs: PSNR, SSIM, LPIPS, and what resizing does with as many numbers."""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2it.grains.maps import route
from d2it.machine.device import Device
from d2it.models.dvae import Dvae, in_use, to_network, to_pixels
from d2it.models.lpips import Lpips

TOGETHER = 16  # images
PEAK = 255.0
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004
SSIM_K = (0.01, 0.03)


@torch.no_grad()
def reconstruct(model: Dvae, images: np.ndarray, maps: np.ndarray | Tensor) -> np.ndarray:
    """Decode each image's posterior means, routed by its grain map. (N, H, W, 3) uint8 -> same."""
    device = next(model.parameters()).device
    done = []
    for start in range(0, len(images), TOGETHER):
        block = slice(start, start + TOGETHER)
        x = to_network(torch.from_numpy(np.ascontiguousarray(images[block])).to(device))
        means = [mean for mean, _ in model.encode(x)]
        code = route(means, torch.as_tensor(maps[block]).to(device))
        done.append(to_pixels(model.decode(code)).cpu().numpy())
    return np.concatenate(done)


def numbers_per_image(model: Dvae, maps: np.ndarray | Tensor) -> float:
    """Latent values that the maps use, per image: C for each code of each region."""
    maps = torch.as_tensor(maps)
    used = sum(int(codes.sum()) for codes in in_use(maps, len(model.factors)))
    return model.latent_channels * used / len(maps)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Decibels per image, of uint8 images (N, H, W, 3). (N,)"""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean((1, 2, 3))
    return 10 * np.log10(PEAK**2 / np.maximum(error, 1e-10))


def ssim(a: np.ndarray, b: np.ndarray, device: Device = "cpu") -> np.ndarray:
    """Structural similarity per image, of uint8 images (N, H, W, 3), averaged over channels. (N,)

    Gaussian window of 11 px (Wang et al. 2004), means over windows that lie inside the image.
    """
    x, y = (
        torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).double()
        for images in (a, b)
    )
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = ((k * PEAK) ** 2 for k in SSIM_K)
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similar /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return similar.mean((1, 2, 3)).cpu().numpy()


def _blur(x: Tensor) -> Tensor:
    """Gaussian means of the windows inside the image. (N, C, H, W) -> (N, C, H-10, W-10)."""
    down, across = (_windows(side).to(x.device) for side in x.shape[2:])
    return down @ x @ across.T


@cache
def _windows(side: int) -> Tensor:
    """The weights of each window along a line of pixels, (side - 10, side) fp64."""
    pixels = torch.arange(side, dtype=torch.float64)
    offsets = pixels - pixels[: side - SSIM_WINDOW + 1, None] - SSIM_WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    kernel[offsets.abs() > SSIM_WINDOW // 2] = 0
    return kernel / kernel.sum(1, keepdim=True)


@torch.no_grad()
def lpips(network: Lpips, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Perceptual distance per image, of uint8 images (N, H, W, 3). (N,)"""
    device = network.shift.device
    done = []
    for start in range(0, len(a), TOGETHER):
        pair = (
            to_network(
                torch.from_numpy(np.ascontiguousarray(x[start : start + TOGETHER])).to(device)
            )
            for x in (a, b)
        )
        done.append(network(*pair).cpu().numpy())
    return np.concatenate(done)


def bicubic_side(numbers: float) -> int:
    """Side of the small RGB image that comes nearest to so many numbers: 3 side^2."""
    return max(1, round((numbers / 3) ** 0.5))


def bicubic_baseline(images: np.ndarray, numbers: float) -> np.ndarray:
    """Images shrunk to as many numbers as the code has, and enlarged again. (N, H, W, 3) uint8."""
    side = bicubic_side(numbers)
    return np.stack([_there_and_back(image, side) for image in images])


def _there_and_back(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def reconstruction_metrics(
    images: np.ndarray, reconstructions: np.ndarray, numbers: float, network: Lpips
) -> dict[str, float]:
    """Means over images: psnr, ssim, lpips, and the psnr of resizing at equal code size."""
    return {
        "psnr": float(psnr(images, reconstructions).mean()),
        "ssim": float(ssim(images, reconstructions, network.shift.device).mean()),
        "lpips": float(lpips(network, images, reconstructions).mean()),
        "baseline_psnr": float(psnr(images, bicubic_baseline(images, numbers)).mean()),
    }
