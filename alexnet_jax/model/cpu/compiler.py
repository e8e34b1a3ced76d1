"""Which of XLA's two libraries computes what."""

from functools import cache

import jax

LIBRARIES = "xla_cpu_experimental_ynn_fusion_type"
TRAINING = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


def compiler_options(*, training: bool) -> dict[str, str]:
    """Returns options for `jax.jit`; none where XLA knows no such option.

    YNNPACK's products of small matrices are the faster ones, which is good for training. Its
    convolutions (jax before 0.12) and its products with fc6's and fc7's weights at few images are
    slower than Eigen's by up to two times.
    """
    return {LIBRARIES: TRAINING if training else ""} if _known(LIBRARIES) else {}


@cache
def _known(option: str) -> bool:
    trial = jax.jit(lambda: 0, compiler_options={option: ""})
    try:
        trial.lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
