"""What measurements depend on: this machine, its versions, and the memory used so far."""

import importlib
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import platform
import sys
from collections.abc import Sequence

import jax


def machine(packages: Sequence[str] = ()) -> dict[str, str]:
    """What figures depend on: device, processor, versions, tuning in the environment."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", *packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # in a package of another name
            versions[name] = "unknown"
    processor = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        processor = models[0] if models else processor
    tuning = ("GLIBC_TUNABLES", "XLA_FLAGS")
    tuned = {name: os.environ[name] for name in tuning if name in os.environ}
    return {
        "device": jax.devices()[0].device_kind,
        "processor": processor,
        "cores": str(os.cpu_count()),
        "Python": platform.python_version(),
        **versions,
        **tuned,
    }


def peak_gigabytes() -> float:
    """The most memory this process has had so far; nan on Windows, which does not tell this way."""
    if importlib.util.find_spec("resource") is None:
        return math.nan
    resource = importlib.import_module("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)
