"""What all commands do with errors."""

import errno
import os

import pytest


def raises(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "; choose another place"), (errno.ENOENT, "; check the path"), (errno.EMFILE, "")],
)
def test_an_error_of_the_system_is_one_line_with_the_remedy_that_helps(type_command, number, remedy):
    status, _, err = type_command(raises(OSError(number, os.strerror(number), "some/file")))
    assert status == 2
    assert err == f"error: some/file: {os.strerror(number)}{remedy}\n"


def test_a_missing_input_is_not_told_to_lie_elsewhere(type_command, tmp_path):
    status, _, err = type_command(lambda: (tmp_path / "absent").read_text())
    assert status == 2
    assert err == f"error: {tmp_path / 'absent'}: No such file or directory; check the path\n"


def test_ctrl_c_has_a_status_of_its_own(type_command):
    assert type_command(raises(KeyboardInterrupt()))[0] == 130
