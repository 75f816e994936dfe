"""The web page: what it says, and that a real browser shows it without any other computer."""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sys
import types

import numpy as np
import pytest
import tyro
from rich.console import Console

from arcface_jax.commands.models import open_embedder
from arcface_jax.commands.photos import Cropper
from arcface_jax.data.decode import decode
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.evaluation.impostor_tail import ImpostorTail
from arcface_jax.interop.card import ModelCard
from experiments import demo
from tests import processes

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Runs the command and says on stderr whom it connects to.
WATCHED = """
import sys
def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        print("connects to", arguments[1][0], file=sys.stderr, flush=True)
sys.addaudithook(watch)
sys.argv[0] = "demo"
import runpy
runpy.run_module("experiments.demo", run_name="__main__")
"""


def main():
    demo.run(tyro.cli(demo.Arguments))


@pytest.fixture
def answers(small_checkpoint, crowd):
    """Of a page that knows all but the fourth person."""
    shutil.copytree(crowd, crowd.parent / "known")
    shutil.rmtree(crowd.parent / "known" / "p3")
    embedder = open_embedder(small_checkpoint)
    gallery = demo.enrol(
        embedder,
        str(crowd.parent / "known"),
        Cropper(embedder.image_size),
        EmbeddingRule(),
        Console(quiet=True),
    )
    return demo.Answers(embedder, Cropper(embedder.image_size), gallery, EmbeddingRule())


def test_two_photos_of_one_person_and_of_two(answers, crowd):
    photos = FolderSource(crowd)
    text, first, second = answers.compare(photos[0], photos[1], 0.95)
    assert re.fullmatch(r"## The same person\nSimilarity 0\.9\d\d, threshold 0\.950", text)
    np.testing.assert_array_equal(first, photos[0])
    np.testing.assert_array_equal(second, photos[1])
    assert answers.compare(photos[0], photos[4], 0.95)[0].startswith("## Different people")


def test_a_name_or_unknown(answers, crowd):
    photos = FolderSource(crowd)
    assert answers.name(photos[6], 0.95)[0].startswith("## p1\nMost alike: p1, similarity")
    assert answers.name(photos[12], 0.95)[0].startswith("## unknown\nMost alike: p")


def test_what_the_number_means_is_said_where_the_card_tells(answers, crowd):
    photos, tail = FolderSource(crowd), ImpostorTail(1000, (1, 1000), (0.9999, -1.0))
    meaning = "same person: 97 %"
    card = types.SimpleNamespace(
        rule=EmbeddingRule(), strangers=tail, meaning=lambda cosine, rule: meaning
    )
    card.strangers_by = functools.partial(ModelCard.strangers_by, card)
    embedder = dataclasses.replace(answers._embedder, card=card)
    for rule, told in ((EmbeddingRule(), True), (EmbeddingRule("none"), False)):
        page = demo.Answers(embedder, answers._cropper, answers._gallery, rule)
        assert page.compare(photos[0], photos[1], 0.5)[0].endswith(f"\n\n{meaning}")
        named = page.name(photos[6], 0.5)[0]
        assert ("Strangers so alike: " in named) == told
    # One who is the very photo that was enrolled: 1 − .999¹² of 1,000 pairs that never reach it.
    assert (
        demo.Answers(embedder, answers._cropper, answers._gallery, EmbeddingRule())
        .name(photos[0], 0.5)[0]
        .endswith("Strangers so alike: fewer than one in 83")
    )


def test_photographs_to_click_are_drawn_and_the_page_says_whose_number_it_shows(tmp_path):
    one, two = demo.drawn_examples(tmp_path)
    faces = SyntheticFaces(2, 2, image_size=112)
    assert faces.labels.tolist()[:3] == [0, 0, 1]
    for pair, numbers in ((one, (0, 1)), (two, (1, 2))):
        for file, number in zip(pair, numbers, strict=True):
            with open(file, "rb") as content:
                drawn = decode(content.read(), file)
            np.testing.assert_array_equal(drawn, faces.render(np.array([number]))[0])


@pytest.mark.slow
def test_the_page_has_a_title_and_photographs_to_click(tmp_path):
    """In a process of its own, for Gradio leaves an event loop open."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the packages of requirements-demo.txt are not installed")
    text = f"""
import json, pathlib
from experiments import demo
examples = demo.drawn_examples(pathlib.Path({str(tmp_path)!r}))
answers = demo.Answers(None, None, None, None)
page = demo.build(answers, "Little", (0.4, 0.6), 3, examples)
parts = [(one["type"], one["props"]) for one in page.get_config_file()["components"]]
print(json.dumps([
    page.title,
    parts[0][1]["value"],
    [props["value"] for kind, props in parts if kind == "slider"],
    [len(props["samples"]) for kind, props in parts if kind == "dataset"],
]))
"""
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    run = processes.run([sys.executable, "-c", text], cwd=REPOSITORY, env=environment)
    assert run.returncode == 0, run.stderr
    title, first, sliders, clicked = json.loads(run.stdout)
    assert title == "arcface-jax: Little"
    assert first.startswith("# arcface-jax: Little\nThe number is the similarity of two photos")
    assert (sliders, clicked) == ([0.4, 0.6], [2])


def test_faults_are_said_on_the_page(answers, crowd):
    assert answers.compare(FolderSource(crowd)[0], None, 0.5) == (
        "## Second photo: missing; choose one",
        None,
        None,
    )
    assert answers.name(None, 0.5) == ("## Photo: missing; choose one", None)
    nobody = demo.Answers(answers._embedder, answers._cropper, None, EmbeddingRule())
    with pytest.raises(InputError, match="start with --people"):
        nobody.name(FolderSource(crowd)[0], 0.5)


def test_without_gradio_it_says_what_to_install(type_command, small_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, _, err = type_command(main, small_checkpoint, "--threshold", "0.5")
    assert status == 2
    assert "pip install -r requirements-demo.txt" in err


def test_an_address_that_cannot_be_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: {port} is taken; give another"):
            demo.check_address("127.0.0.1", port)
    demo.check_address("127.0.0.1", port)
    with pytest.raises(
        InputError, match=r"--host 192\.0\.2\.1: .*; give an address of this computer"
    ):
        demo.check_address("192.0.2.1", port)
    with pytest.raises(
        InputError, match=r"--host no such host: .*; give an address of this computer"
    ):
        demo.check_address("no such host", port)
    with pytest.raises(InputError, match="--port 70000: give a number"):
        demo.check_address("127.0.0.1", 70_000)


@pytest.fixture
def browser():
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium, which drives the browser, is not installed"
    )
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1000,1200",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.implicitly_wait(60)
    yield browser
    browser.quit()


@pytest.fixture
def page(small_checkpoint, crowd):
    """(address, process) of the command as a person starts it."""
    pytest.importorskip("gradio", reason="the packages of requirements-demo.txt are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        WATCHED,
        str(small_checkpoint),
        "--people",
        str(crowd),
        "--threshold",
        "0.95",
    ]
    process = processes.start(
        [*command, "--port", port, "--no-open"],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(crowd.parent)},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        first = process.stdout.readline()
        assert address in first, first + processes.end(process)[1]
        yield address, process
    finally:
        processes.end(process)


def wait_for(browser, element, text):
    """The element's text once it contains `text`."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    found = browser.find_element(By.ID, element)
    WebDriverWait(browser, 60).until(lambda _: text in found.text)
    return found.text


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_browser_shows_it_and_asks_no_other_computer(browser, page, crowd, tmp_path):
    from selenium.webdriver.common.by import By

    address, process = page
    browser.get(address)
    inputs = browser.find_elements(By.CSS_SELECTOR, "input[type=file]")
    for element, photo in zip(inputs[:2], ("p0/0.png", "p0/1.png"), strict=True):
        element.send_keys(str(crowd / photo))
    browser.find_element(By.ID, "compare").click()
    assert re.search(
        r"Similarity 0\.9\d\d, threshold 0\.950", wait_for(browser, "compared", "The same person")
    )
    browser.save_screenshot(str(tmp_path / "compare.png"))
    browser.find_element(By.XPATH, "//button[@role='tab'][contains(., 'Who is this?')]").click()
    browser.find_elements(By.CSS_SELECTOR, "input[type=file]")[-1].send_keys(
        str(crowd / "p2/3.png")
    )
    browser.find_element(By.ID, "name").click()
    assert "Most alike: p2" in wait_for(browser, "named", "p2")
    browser.save_screenshot(str(tmp_path / "name.png"))

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert len(sent) > 5
    assert [url for url in sent if not url.startswith((address, "data:", "blob:"))] == []

    port = address.rpartition(":")[2]
    command = [
        sys.executable,
        "-m",
        "experiments.demo",
        "small.pth",
        "--threshold",
        "0",
        "--no-open",
        "--port",
        port,
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    other = processes.run(command, cwd=crowd.parent, env=environment)
    assert other.returncode == 2
    assert other.stderr == f"error: --port: {port} is taken; give another\n"

    temporary = [path for path in crowd.parent.rglob("*.png") if crowd not in path.parents]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert {line.split()[-1] for line in errors.splitlines() if line.startswith("connects to")} <= {
        "127.0.0.1"
    }
    assert any(path.name not in ("compare.png", "name.png") for path in temporary)
    assert not [
        path for path in temporary if path.name not in ("compare.png", "name.png") and path.exists()
    ]
