"""The network of 2012 in PyTorch, with two kinds of LRN, and the parameters of this package."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_jax.model import Network
from experiments.step.contender import Params
from experiments.step.work import convolutions, denses, lrn_band, rows_in_chw, rows_in_hwc


class WindowLrn(nn.Module):
    """Section 3.3 by PyTorch's own operator, each tower by itself."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.towers = network.towers
        # PyTorch divides alpha by the window's size.
        self.size, self.alpha = network.lrn_size, network.lrn_alpha * network.lrn_size
        self.beta, self.k = network.lrn_beta, network.lrn_k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        n, c, h, w = x.shape
        per_tower = x.reshape(n * self.towers, c // self.towers, h, w)
        return F.local_response_norm(per_tower, self.size, self.alpha, self.beta, self.k).reshape(
            n, c, h, w
        )


class BandLrn(nn.Module):
    """The same as a 1x1 convolution with a band for each tower, and square roots."""

    def __init__(self, network: Network, channels: int) -> None:
        super().__init__()
        assert network.lrn_beta == 0.75
        band = torch.from_numpy(lrn_band(network, channels))
        self.register_buffer("band", band[:, :, None, None])
        self.register_buffer("k", torch.full((channels,), network.lrn_k))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        root = F.conv2d(x * x, self.band, self.k).rsqrt()
        return x * (root * root.sqrt())


class Dropout(nn.Module):
    """The dropout of 2012: nothing is rescaled in training, all is at test."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`mask` says which units stay; None is the network at test."""
        return x * (1 - self.rate) if mask is None else x * mask


class AlexNet(nn.Module):
    """The network with the parameters of this package, in PyTorch's own layouts."""

    def __init__(self, network: Network, params: Params, lrn: str) -> None:
        super().__init__()
        if network.activation != "relu" or network.norm not in ("lrn", "none"):
            raise ValueError("the PyTorch network is that of 2012: relu, lrn, max pooling")
        maps: list[nn.Module] = []
        layers: dict[str, nn.Module] = {}
        for conv in convolutions(network):
            before, after = conv.layer.padding
            if before != after:
                maps.append(nn.ZeroPad2d((before, after, before, after)))
            symmetric = before if before == after else 0
            layer = nn.utils.skip_init(
                nn.Conv2d,
                conv.maps[1],
                conv.layer.width,
                conv.layer.kernel,
                stride=conv.layer.stride,
                padding=symmetric,
                groups=conv.groups,
            )
            layers[conv.name] = layer
            maps.append(layer)
            for stage, _ in conv.stages:
                if stage == "activation":
                    maps.append(nn.ReLU(inplace=True))
                elif stage == "pool":
                    assert conv.layer.pool_padding == (0, 0)
                    maps.append(nn.MaxPool2d(network.pool_window, network.pool_stride))
                elif stage == "norm" and network.norm == "lrn":
                    channels = conv.layer.width
                    maps.append(BandLrn(network, channels) if lrn == "band" else WindowLrn(network))
                elif stage != "norm":
                    raise ValueError(f"the PyTorch network knows no {stage}")
        self.maps = nn.Sequential(*maps)
        self.hidden = nn.ModuleDict()
        for name, (inputs, units) in denses(network).items():
            layers[name] = self.hidden[name] = nn.utils.skip_init(nn.Linear, inputs, units)
        self.after = {name: dense.after.split() for name, dense in network.hidden().items()}
        self.dropout = Dropout(network.dropout)
        self.layers, self.side = layers, network.final_maps()
        self.first_dense = next(iter(self.hidden))
        self.load(params)

    def forward(self, x: torch.Tensor, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits of (N, 3, S, S); no masks is the network at test."""
        x = self.maps(x).flatten(1)
        for name, layer in self.hidden.items():
            x = layer(x)
            for stage in self.after.get(name, ()):
                x = F.relu(x) if stage == "activation" else self.dropout(x, masks.get(name))
        return x

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Takes parameters: kernels HWIO, units IO, the first of these over maps in HWC order."""
        for name, layer in self.layers.items():
            kernel = params[name]["kernel"]
            if kernel.ndim == 4:
                kernel = kernel.transpose(3, 2, 0, 1)
            else:
                if name == self.first_dense:
                    kernel = rows_in_chw(kernel, self.side)
                kernel = kernel.T
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            layer.bias.copy_(torch.from_numpy(params[name]["bias"]))

    def save(self) -> Params:
        """The parameters as they came."""
        params: Params = {}
        for name, layer in self.layers.items():
            kernel = layer.weight.detach().float().cpu().numpy()
            if kernel.ndim == 4:
                kernel = kernel.transpose(2, 3, 1, 0)
            else:
                kernel = kernel.T
                if name == self.first_dense:
                    kernel = rows_in_hwc(kernel, self.side)
            bias = layer.bias.detach().float().cpu().numpy()
            params[name] = {"kernel": kernel, "bias": bias.copy()}
        return params
