"""Lets every process of a run keep what it compiles; Python imports it where it is on its path.

JAX writes to its cache of compiled programs in process 0 alone, and on the CPU, where a program is
another for each process, the others would compile all of it in every run that is to be broken.
"""

import sys
from importlib import util
from types import SimpleNamespace


class After:
    """Changes a module as soon as it is imported."""

    def __init__(self, name, change):
        """Args:
        name: of the module.
        change: gets it.
        """
        self.name, self.change = name, change
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        """Of that module alone."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = execute_and_change
        return spec


def keep(compiler):
    """Each process is the first, for the cache."""
    compiler.distributed = SimpleNamespace(global_state=SimpleNamespace(process_id=0))


After("jax._src.compiler", keep)
