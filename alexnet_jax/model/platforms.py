"""The one place where the platform decides: each has a folder with what it does in its own way."""

from jax.sharding import Mesh

from alexnet_jax.model.plain import Plain


def platform_of(mesh: Mesh) -> Plain:
    """How the network is computed on the devices of a mesh."""
    match mesh.devices.flat[0].platform:
        case "cpu":
            from alexnet_jax.model import cpu

            return cpu.PLATFORM
        case "tpu":
            from alexnet_jax.model import tpu

            return tpu.PLATFORM
        case _:  # 'gpu', for CUDA and ROCm
            from alexnet_jax.model import gpu

            return gpu.PLATFORM
