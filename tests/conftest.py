"""What every test shares: simulated devices, a compilation cache, the optional real data."""

import collections
import gc
import itertools
import os
import pathlib
import sys
import tempfile
import uuid

# Before JAX starts its backend: eight CPU devices stand in for eight accelerators.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "arcface_jax_test_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("MPLBACKEND", "agg")
# As many workers as cores: further threads of scikit-learn, PyTorch and BLAS would wait for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

from tests.processes import quick_to_compile

# A slow machine is no fault.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long tests/test_fuzz.py goes on; not more than `pytest -m slow` does if not given."""
    parser.addoption("--fuzz-inputs", type=int, help="damaged inputs a test of tests/test_fuzz.py")


def pytest_configure(config: pytest.Config) -> None:
    """The default tests compile without optimising, which is most of their time; others as users
    do, and -m accelerator for the device that JAX finds, or that JAX_PLATFORMS names.
    """
    chosen = config.getoption("markexpr")
    if chosen == "not slow":
        os.environ["XLA_FLAGS"] = quick_to_compile()
    if not chosen.startswith("accelerator"):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    else:
        # Two workers share one device; a run that goes on is compared to the last bit.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        os.environ["XLA_FLAGS"] += " --xla_gpu_deterministic_ops=true"


def pytest_collection_finish() -> None:
    """What was imported stays, so the collector need not look at it again and again; it runs less
    often, for tracing makes many objects and few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter) -> None:
    """The seconds of each folder, summed over the workers: where a change made them slow."""
    seconds, tests, inputs = collections.Counter(), collections.Counter(), 0
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            folder = str(pathlib.PurePosixPath(report.location[0]).parent)
            seconds[folder] += report.duration
            tests[folder] += report.when == "call"
            inputs += sum(count for name, count in report.user_properties if name == "inputs")
    terminalreporter.section("seconds by folder")
    for folder, spent in seconds.most_common():
        terminalreporter.write_line(f"{spent:7.0f} s {tests[folder]:6} tests  {folder}")
    terminalreporter.write_line(f"{inputs} damaged inputs read")


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A working folder for modules of the user's own; what is imported there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real faces and characters beside the repository, which is not part of it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data folder ../shared/data is absent")
    return folder


@pytest.fixture(scope="session", autouse=True)
def memory_is_a_storage():
    """fsspec's own, for tests alone: what a command put there would end with it."""
    from arcface_jax.buckets import requests

    requests.SCHEMES["memory"] = "fsspec"


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of its own in memory, where fsspec makes no folders: those of no other are there
    either.
    """
    from fsspec.implementations import memory

    from arcface_jax.buckets import as_path

    monkeypatch.setattr(memory.MemoryFileSystem, "makedirs", lambda *_, **__: None)
    return as_path(f"memory://{uuid.uuid4().hex}")
