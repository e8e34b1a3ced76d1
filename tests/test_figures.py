"""The pictures show what they say."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax import figures


def test_kernels_are_drawn_tower_by_tower(tmp_path: Path) -> None:
    """A red tower and a green one: the upper half of the picture is red, the lower green."""
    kernel = np.zeros((11, 11, 3, 24), np.float32)
    kernel[:, :, 0, :12] = 0.2
    kernel[:, :, 1, 12:] = 0.1
    path = figures.kernels(kernel, 2, tmp_path)
    assert path == tmp_path / "figures" / "conv1.png"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = np.argwhere((pixels[..., 0] > 240) & (pixels[..., 1] < 140) & (pixels[..., 2] < 140))
    green = np.argwhere((pixels[..., 1] > 240) & (pixels[..., 0] < 140) & (pixels[..., 2] < 140))
    assert len(red) > 1000 and abs(len(red) - len(green)) < 0.02 * len(red)
    assert red[:, 0].max() < green[:, 0].min()


def test_a_kernel_of_zeros_is_grey(tmp_path: Path) -> None:
    """No division by zero, and no colour."""
    with Image.open(figures.kernels(np.zeros((5, 5, 3, 4)), 1, tmp_path)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    middle = pixels[pixels.shape[0] * 3 // 4, pixels.shape[1] // 3]
    assert middle.tolist() == [127, 127, 127]


def test_curves_of_a_run(tmp_path: Path) -> None:
    """Rows of every kind are drawn, and a run without validation too."""
    rows = [
        {"step": s, "epoch": s / 10, "split": "train", "views": 1, "loss": 3 / s, "top1_error": 1}
        for s in range(1, 20)
    ]
    rows.append({**rows[-1], "split": "test", "views": 10})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Image.open(figures.curves(tmp_path)) as image:
        assert image.width > 500 and len(np.unique(np.asarray(image))) > 10
