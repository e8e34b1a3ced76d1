"""The accelerators that programs can be compiled for, and their makers' figures."""

import importlib.util
from typing import Any, NamedTuple


class Target(NamedTuple):
    """An accelerator: what its compiler has to know, and the rates that bound a program."""

    name: str
    platform: str  # of JAX's topologies
    topology: str  # of a TPU, so many chips; '{}' in it is the number of devices
    chips: int  # the most that this topology has
    memory: float  # bytes a second, from and to the device's memory
    products: dict[str, float]  # operations a second of the matrix units, by type of the maps
    clock: float = 0.0  # cycles a second; 0 where it is not published
    card: str = ""  # XLA's description of a GPU

    @property
    def compiler(self) -> str:
        """The module that has it."""
        return "libtpu" if self.platform == "tpu" else "jax_plugins.xla_cuda13"

    def missing(self) -> bool:
        """Whether its compiler is not installed."""
        try:
            return importlib.util.find_spec(self.compiler) is None
        except ModuleNotFoundError:  # nor is the package that it is in
            return True

    def devices(self, count: int) -> list[Any]:
        """So many of them; none is there, but programs can be compiled for them."""
        from jax.experimental import topologies

        if self.platform == "tpu":
            found = topologies.get_topology_desc(platform="tpu", topology_name=self.topology)
        else:
            found = topologies.get_topology_desc(
                platform="cuda", topology=self.topology.format(count), target_config=self.card
            )
        return list(found.devices)[:count]


def _card(name: str, *, cores: int, bandwidth: int, cache: int, memory: int, **more: int) -> str:
    """XLA's description of an NVIDIA GPU, by the figures of its data sheet and of CUDA's guide.

    Args:
        name: of the card.
        cores: streaming multiprocessors.
        bandwidth: bytes a second.
        cache: bytes of the second level.
        memory: bytes.
        more: `capability`, of CUDA, its major number; `shared`, bytes of shared memory a core;
            `units`, float32 units a core; `megahertz` of its clock.
    """
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "shared_memory_per_block": 48 << 10,
        "shared_memory_per_block_optin": more["shared"] - 1024,
        "shared_memory_per_core": more["shared"],
        "core_count": cores,
        "fpus_per_core": more["units"],
        "block_dim_limit_x": (1 << 31) - 1,
        "block_dim_limit_y": (1 << 16) - 1,
        "block_dim_limit_z": (1 << 16) - 1,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 1 << 16,
        "registers_per_block_limit": 1 << 16,
        "memory_bandwidth": bandwidth,
        "l2_cache_size": cache,
        "device_memory_size": memory,
        "clock_rate_ghz": more["megahertz"] / 1000,
    }
    fields = " ".join(f"{field}: {value}" for field, value in info.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {more['capability']} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } '
        f'runtime_version {{ major: 13 }} device_description_str: "{name}"'
    )


HOPPER = {"capability": 9, "cores": 132, "units": 128, "shared": 228 << 10, "cache": 50 << 20}
AMPERE = {"capability": 8, "cores": 108, "units": 64, "shared": 164 << 10, "cache": 40 << 20}
# Dense products of bfloat16, and of float32 by the precision that JAX has by default there: TF32,
# and on a TPU one pass of bfloat16.
HOPPER_PRODUCTS = {"bfloat16": 989.4e12, "float32": 494.7e12}
TARGETS = {
    "h100": Target(
        "NVIDIA H100 SXM", "cuda", "1x1x{}", 8, 3.352e12, HOPPER_PRODUCTS,
        card=_card(
            "NVIDIA H100 80GB HBM3", bandwidth=3_352_320_000_000, memory=80 << 30, megahertz=1980,
            **HOPPER,
        ),
    ),
    "h200": Target(
        "NVIDIA H200 SXM", "cuda", "1x1x{}", 8, 4.8e12, HOPPER_PRODUCTS,
        card=_card(
            "NVIDIA H200 141GB HBM3e", bandwidth=4_800_000_000_000, memory=141 << 30,
            megahertz=1980, **HOPPER,
        ),
    ),
    "a100": Target(
        "NVIDIA A100 SXM 80 GB", "cuda", "1x1x{}", 8, 2.039e12,
        {"bfloat16": 312e12, "float32": 156e12},
        card=_card(
            "NVIDIA A100-SXM4-80GB", bandwidth=2_039_040_000_000, memory=80 << 30, megahertz=1410,
            **AMPERE,
        ),
    ),
    "v5e": Target(
        "TPU v5e", "tpu", "v5e:2x2", 4, 819e9, {"bfloat16": 197e12, "float32": 197e12}, 1.5e9
    ),
    "v6e": Target("TPU v6e", "tpu", "v6e:2x2", 4, 1.64e12, {"bfloat16": 918e12, "float32": 918e12}),
}  # fmt: skip
