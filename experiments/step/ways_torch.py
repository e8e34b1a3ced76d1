"""The network in PyTorch: eager and compiled, in both layouts, with two kinds of LRN."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from experiments.step import given
from experiments.step.contender import Arrays, Contender, Task, Way
from experiments.step.outcomes import CHECKED_STEPS, changes, masks_of
from experiments.step.torch_network import AlexNet
from experiments.step.work import flops

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
LRNS = ("window", "band")
COPIED = {"cpu": 256 * 2**20, "gpu": 2**30}  # bytes
SIDE = {"cpu": 2048, "gpu": 8192}  # of the matrices


def start(task: Task) -> str:
    """Threads, and what PyTorch's guide to performance says of a GPU."""
    torch.set_num_threads(task.threads)
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 64  # of one function, for all contenders together
    if task.platform == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32, as XLA does
        torch.backends.cudnn.allow_tf32 = True
    return f"PyTorch on {_device(task)} with {torch.get_num_threads()} threads"


def ways(task: Task) -> list[Way]:
    """Eager or compiled, times two layouts, times two ways to compute LRN."""
    limits = [
        Way("torch_matmul", "limits", "matrix product, torch"),
        Way("torch_copy", "limits", "copy, torch"),
    ]
    if task.kind == "operators":
        return limits
    group = f"{task.kind}, batch {task.batch}"
    networks = [
        Way(
            f"torch_{how}_{layout}_{lrn}",
            group,
            f"PyTorch {how}, {layout}, LRN by {lrn}",
            task.kind,
        )
        for how in ("eager", "compiled")
        for layout in FORMATS
        for lrn in LRNS
    ]
    return networks + limits


def make(key: str, task: Task) -> Contender:
    """Gets one of the `ways` ready."""
    device = _device(task)
    if key == "torch_matmul":
        side = SIDE[task.platform]
        dtype = torch.bfloat16 if task.platform == "gpu" else getattr(torch, task.dtype)
        matrix = torch.randn(side, side, device=device).to(dtype)
        product = torch.empty_like(matrix)
        return Calling(lambda: torch.matmul(matrix, matrix, out=product), flops=2 * side**3)
    if key == "torch_copy":
        array = torch.ones(COPIED[task.platform], dtype=torch.uint8, device=device)
        other = torch.empty_like(array)
        return Calling(lambda: other.copy_(array), bytes=2 * array.nbytes)
    _, how, layout_lrn = key.split("_", 2)
    layout, _, lrn = layout_lrn.rpartition("_")
    kind = Training if task.kind == "training" else Inference
    return kind(task, FORMATS[layout], lrn, compiled=how == "compiled")


def _device(task: Task) -> str:
    return "cuda" if task.platform == "gpu" else "cpu"


# --- what is timed --------------------------------------------------------------------------------


class Calling(Contender):
    """A function of nothing."""

    def __init__(
        self, function: Callable[[], Any], *, batch: int = 1, flops: float = 0.0, bytes: float = 0.0
    ) -> None:
        self.function = function
        self.batch, self.flops, self.bytes = batch, flops, bytes

    def step(self) -> None:
        """Calls the function."""
        self.function()

    def wait(self) -> None:
        """Waits for the GPU; on a CPU the function has returned when all is done."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """There is none."""
        return {}

    def memory(self) -> tuple[int, str] | None:
        """A CPU keeps no count."""
        if not torch.cuda.is_initialized():
            return None
        return torch.cuda.max_memory_allocated(), "max_memory_allocated"

    def timed(self, function: Callable[[], Any]) -> float:
        """Seconds."""
        self.wait()
        started = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - started


class Training(Calling):
    """A step of the network with the rule of 2012, by PyTorch's fused update."""

    def __init__(self, task: Task, layout: Any, lrn: str, *, compiled: bool) -> None:
        network, rule = task.network, task.config.optim
        super().__init__(self.update, batch=task.batch, flops=flops(network, task.kind))
        self.device, self.network, self.compiled = _device(task), network, compiled
        self.before = given.parameters(network)
        self.model = AlexNet(network, self.before, lrn)
        self.model = self.model.to(self.device, memory_format=layout)
        batch = given.batch(network, task.batch)
        self.images = _to_nchw(batch["image"]).to(self.device, memory_format=layout)
        self.labels = torch.from_numpy(batch["label"]).long().to(self.device)
        mean = _to_nchw(given.mean_image(network)[None]).to(self.device)
        self.masks = {
            name: torch.empty(task.batch, dense.width, dtype=torch.bool, device=self.device)
            for name, dense in network.hidden().items()
            if "dropout" in dense.after.split() and network.dropout
        }
        layers = self.model.layers.values()
        self.optimizer = torch.optim.SGD(
            [
                {"params": [la.weight for la in layers], "weight_decay": rule.weight_decay},
                {
                    "params": [la.bias for la in layers],
                    "lr": rule.learning_rate * rule.bias_multiplier,
                },
            ],
            lr=rule.learning_rate,
            momentum=rule.momentum,
            fused=True,
        )
        narrow = task.dtype != "float32"

        def loss(masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
            images = self.images.float() - mean
            with torch.autocast(self.device, torch.bfloat16, enabled=narrow):
                logits = self.model(images, masks)
            return F.cross_entropy(logits.float(), self.labels)

        self.loss = _compile(loss, task, layout) if compiled else loss

    def update(self, masks: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """One step, by masks of its own if none are given."""
        if masks is None:
            for mask in self.masks.values():
                mask.bernoulli_(1 - self.network.dropout)
            masks = self.masks
        loss = self.loss(masks)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """What one step changes, and the losses of some."""
        losses: list[float] = []
        seconds: list[float] = []
        changed: Arrays = {}
        for step in range(CHECKED_STEPS):
            masks = masks_of(first, step)
            tensors = {name: torch.tensor(mask, device=self.device) for name, mask in masks.items()}
            seconds.append(self.timed(lambda m=tensors: losses.append(self.update(m).item())))
            changed = changed or changes(self.before, self.model.save())
        if self.compiled:
            self.compile_seconds = seconds[0] - seconds[1]
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return {"losses": np.array(losses)} | changed


class Inference(Calling):
    """The logits of one batch."""

    def __init__(self, task: Task, layout: Any, lrn: str, *, compiled: bool) -> None:
        network, device = task.network, _device(task)
        super().__init__(self.forward, batch=task.batch, flops=flops(network, task.kind))
        dtype = getattr(torch, task.dtype)
        model = AlexNet(network, given.parameters(network), lrn).eval()
        self.model = model.to(device, dtype, memory_format=layout)
        images = _to_nchw(given.pixels(network, task.batch))
        self.images = images.to(device, dtype, memory_format=layout)
        self.compiled = compiled
        self.logits = _compile(self.model, task, layout) if compiled else self.model

    @torch.no_grad()
    def forward(self) -> torch.Tensor:
        """(N, classes)."""
        return self.logits(self.images, {})

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """The logits."""
        seconds = [self.timed(self.forward) for _ in range(2)]
        if self.compiled:
            self.compile_seconds = seconds[0] - seconds[1]
        logits = self.forward().float().cpu().numpy()
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        return {"logits": logits}


def _to_nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _compile(function: Any, task: Task, layout: Any) -> Any:
    """At its best: with all kernels tried on a GPU, with constant weights for inference.

    On a CPU the compiler of PyTorch 2.13 changes contiguous maps to channels_last, and the
    gradients behind a pooling layer are then zeros (pytorch/pytorch#185509): it has to leave the
    layout alone.
    """
    torch._inductor.config.freezing = task.kind == "inference"
    if task.platform == "gpu":
        return torch.compile(function, mode="max-autotune")
    wrong = task.kind == "training" and layout == FORMATS["nchw"]
    return torch.compile(function, options={"layout_optimization": False} if wrong else None)
