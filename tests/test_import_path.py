import pytest

from arcface_jax.errors import InputError
from arcface_jax.import_path import load_attribute
from arcface_jax.training.config_file import read_config


def test_an_attribute_of_a_file_in_the_working_folder(own_folder):
    (own_folder / "my_losses.py").write_text("def mine():\n    return 3\n")
    assert load_attribute("my_losses:mine", "loss.name")() == 3
    assert load_attribute("os.path:join", "loss.name").__name__ == "join"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_losses", "not of the form module:attribute"),
        ("my_losses:", "not of the form module:attribute"),
        ("../other:f", "not of the form module:attribute"),
        ("nowhere:f", "no module 'nowhere' in .* or installed"),
        ("os.nowhere:f", "no module 'os.nowhere'"),
        ("my_losses:absent", "my_losses.py has no absent"),
        ("broken:f", "importing broken failed with ZeroDivisionError: division by zero"),
        ("lacking:f", "importing lacking failed with ModuleNotFoundError.*not_here"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(own_folder, path, message):
    (own_folder / "my_losses.py").touch()
    (own_folder / "broken.py").write_text("1 / 0\n")
    (own_folder / "lacking.py").write_text("import not_here\n")
    with pytest.raises(InputError, match=message) as caught:
        load_attribute(path, "loss.name")
    assert str(caught.value).startswith("loss.name: ")
    assert "\n" not in str(caught.value)


def test_the_code_in_a_strangers_run_is_not_run(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "their_losses.py").write_text("open('ran', 'w')")
    (run / "config.json").write_text('{"loss": {"name": "their_losses:Loss"}}')
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(run)
    with pytest.raises(InputError, match="lies in the folder of the run"):
        read_config(run / "config.json")
    assert not (run / "ran").exists()
