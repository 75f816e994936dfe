"""Processes that tests start: none outlives its test, nor what it started itself."""

import contextlib
import importlib.metadata
import os
import signal
import subprocess


def quick_to_compile():
    """XLA_FLAGS of a process that does not optimise."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    # Later ones end at a flag that they lost.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    return f"{flags} {os.environ['XLA_FLAGS']}"


def start(command, **options):
    """A process at the head of a group of its own, with its output piped as text.

    Args:
      command: program and arguments.
      options: further ones of subprocess.Popen.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*map(str, command)], start_new_session=True, **options)


def end(process):
    """Kills a process that `start` returned, with all that it started; returns its last output."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()


def run(command, seconds=240, **options):
    """What became of a process, as of subprocess.run; an error if it takes more seconds."""
    process = start(command, **options)
    try:
        output = process.communicate(timeout=seconds)
    except BaseException:
        end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, *output)
