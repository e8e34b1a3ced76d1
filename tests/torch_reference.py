"""The 2012 network and its update rule once more, in PyTorch.

Written from the paper and from `layers-145.cfg`, sharing no code with `alexnet_jax`: only the
layout of the parameters is the same (kernels are HWIO, units IO, fc6 reads maps in HWC order), so
that both sides take one set of arrays. The constants are those of 2012; widths and sizes come from
the arrays.
"""

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Arrays = Mapping[str, Mapping[str, Any]]
Tensors = dict[str, dict[str, torch.Tensor]]


def tensors(arrays: Arrays) -> Tensors:
    """Leaves to differentiate by, in the precision of `arrays`."""
    return {
        layer: {kind: torch.tensor(np.asarray(a)).requires_grad_() for kind, a in pair.items()}
        for layer, pair in arrays.items()
    }


def numbers(tree: Tensors) -> dict[str, dict[str, np.ndarray]]:
    """Back to NumPy."""
    return {
        layer: {kind: t.detach().numpy() for kind, t in pair.items()}
        for layer, pair in tree.items()
    }


def lrn(x: torch.Tensor, towers: int = 2, alpha: float = 0.0001 / 5) -> torch.Tensor:
    """Section 3.3 on (N, C, H, W): k 2, n 5, beta 3/4, and 0.0001 over n (`layer.py:1183`)."""
    normal = []
    for tower in x.chunk(towers, dim=1):
        windows = F.pad(tower.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1)
        normal.append(tower / (2 + alpha * windows.sum(-1)) ** 0.75)
    return torch.cat(normal, dim=1)


def within_map_norm(x: torch.Tensor) -> torch.Tensor:
    """`cnorm2a` and `cnorm2b`: over 5x5 pixels of one map, scale 0.001 over 25, constant 1."""
    mean_square = F.avg_pool2d(x.square(), 5, stride=1, padding=2, divisor_override=25)
    return x / (1 + 0.001 * mean_square) ** 0.75


def pool(x: torch.Tensor, window: int = 3, stride: int = 2) -> torch.Tensor:
    """Section 3.4, on (N, C, H, W)."""
    return F.max_pool2d(x, window, stride)


def convolution(
    x: torch.Tensor, layer: Mapping[str, torch.Tensor], groups: int = 1, **geometry: int
) -> torch.Tensor:
    """With a kernel in the layout of the other side."""
    kernel = layer["kernel"].permute(3, 2, 0, 1)
    return F.conv2d(x, kernel, layer["bias"], groups=groups, **geometry)


def forward(
    params: Mapping[str, Mapping[str, torch.Tensor]],
    images: np.ndarray,
    masks: Mapping[str, np.ndarray] | None = None,
    *,
    released: bool = False,
    apart: Collection[str] = (),
    over_conv4: bool = False,
    lrn_alpha: float = 0.0001 / 5,
) -> torch.Tensor:
    """The logits of (N, S, S, 3) images.

    Args:
        params: the layers conv1 to conv5 and fc6 to fc8.
        images: in the precision of `params`; a tensor where it is differentiated by them.
        masks: of dropout, in training; at test everything is halved instead (section 4.2).
        apart: of conv3, fc6 and fc7 those that see their own tower alone (`layers-150.cfg`).
        over_conv4: dropout there as well, as in 2012's net #177.
        released: the order and the extra norm of `layers-145.cfg`, not those of the paper.
        lrn_alpha: of each squared response.
    """
    norm = functools.partial(lrn, alpha=lrn_alpha)

    def dropped(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * 0.5 if masks is None else x * torch.tensor(masks[name]).to(x.dtype)

    x = torch.as_tensor(images).permute(0, 3, 1, 2)
    # Filters reach three pixels over the right and the lower edge (filter_acts.cu:131,146-153).
    x = convolution(F.pad(x, (0, 3, 0, 3)), params["conv1"], stride=4)
    x = pool(norm(x)).relu() if released else pool(norm(x.relu()))
    x = norm(convolution(x, params["conv2"], groups=2, padding=2).relu())
    x = pool(within_map_norm(x) if released else x)
    x = convolution(x, params["conv3"], 2 if "conv3" in apart else 1, padding=1).relu()
    x = convolution(x, params["conv4"], groups=2, padding=1).relu()
    if over_conv4:
        x = dropped(x.permute(0, 2, 3, 1), "conv4").permute(0, 3, 1, 2)
    x = convolution(x, params["conv5"], groups=2, padding=1)
    x = pool(x).relu() if released else pool(x.relu())
    x = x.permute(0, 2, 3, 1)
    for name in ("fc6", "fc7"):
        towers = 2 if name in apart else 1
        pairs = zip(x.chunk(towers, -1), params[name]["kernel"].chunk(towers, -1), strict=True)
        x = torch.cat([own.flatten(1) @ kernel for own, kernel in pairs], -1)
        x = (x + params[name]["bias"]).relu()
        x = dropped(x, name)
    return x @ params["fc8"]["kernel"] + params["fc8"]["bias"]


def loss_and_gradients(
    params: Tensors,
    images: np.ndarray,
    labels: np.ndarray,
    masks: Mapping[str, np.ndarray] | None = None,
    **reading: Any,
) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
    """Logits, mean loss over the batch, and its gradients; `reading` is for `forward`."""
    logits = forward(params, images, masks, **reading)
    loss = F.cross_entropy(logits, torch.tensor(labels))
    leaves = [(layer, kind) for layer, pair in params.items() for kind in pair]
    slopes = torch.autograd.grad(loss, [params[layer][kind] for layer, kind in leaves])
    gradients: Tensors = {layer: {} for layer in params}
    for (layer, kind), slope in zip(leaves, slopes, strict=True):
        gradients[layer][kind] = slope
    return logits, loss, gradients


def train(
    arrays: Arrays,
    batches: Iterable[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]],
    rates: Iterable[tuple[float, float]],
) -> tuple[dict[str, dict[str, np.ndarray]], list[float]]:
    """Section 5: v <- 0.9 v - 0.0005 rate w - rate gradient; w <- w + v.

    Args:
        arrays: the parameters at the start.
        batches: images, labels and dropout masks of every step.
        rates: of the weights and of the biases, at every step. Biases do not decay (layer.cu:565).

    Returns:
        The parameters at the end, and the losses on the way.
    """
    params = tensors(arrays)
    velocity = {la: {k: torch.zeros_like(t) for k, t in p.items()} for la, p in params.items()}
    losses = []
    for (images, labels, masks), (weight_rate, bias_rate) in zip(batches, rates, strict=True):
        _, loss, gradients = loss_and_gradients(params, images, labels, masks)
        losses.append(loss.item())
        with torch.no_grad():
            for layer in params:
                w, v, g = (tree[layer]["kernel"] for tree in (params, velocity, gradients))
                v.copy_(0.9 * v - 0.0005 * weight_rate * w - weight_rate * g)
                w += v
                w, v, g = (tree[layer]["bias"] for tree in (params, velocity, gradients))
                v.copy_(0.9 * v - bias_rate * g)
                w += v
    return numbers(params), losses
