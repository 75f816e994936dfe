"""Compiling a small network takes far longer than running it once; so compile without optimising."""

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def run(function, *arguments):
    """function(*arguments), as one compiled program."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=OPTIONS)(*arguments)
