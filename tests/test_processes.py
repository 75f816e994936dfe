import subprocess
import sys
import time

import pytest

from tests import processes


def test_a_process_that_takes_too_long_is_killed_with_its_children(tmp_path):
    """The child would write a file after its parent's time."""
    late = tmp_path / "late"
    child = f"import time; time.sleep(2); open({str(late)!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run([sys.executable, "-c", parent], seconds=1)
    time.sleep(max(0.0, begun + 4 - time.monotonic()))
    assert not late.exists()
