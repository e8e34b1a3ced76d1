"""Where compiled programs are kept."""

import os
from pathlib import Path

import jax
import pytest

from alexnet_jax.run.devices import keep_compiled


@pytest.mark.parametrize(
    ("platform", "before", "xdg", "kept"),
    [
        ("gpu", None, "", "~/.cache/alexnet_jax/compiled"),
        ("tpu", None, "/caches", "/caches/alexnet_jax/compiled"),
        ("tpu", "/mine", "/caches", "/mine"),
        ("cpu", None, "/caches", None),
    ],
)
def test_what_was_compiled_for_an_accelerator_is_kept(
    monkeypatch: pytest.MonkeyPatch, platform: str, before: str | None, xdg: str, kept: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    own = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", before)
        keep_compiled(platform)
        expected = kept and str(Path(os.path.expanduser(kept)))
        assert jax.config.jax_compilation_cache_dir == expected
    finally:
        jax.config.update("jax_compilation_cache_dir", own)
