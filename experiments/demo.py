"""A web page on this computer, to try a model with your own photos.

python -m experiments.demo 068.ckpt --threshold 0.4
python -m experiments.demo exported --people people/ --detect

Two photos: the same person or not. With --people (people/NAME/*.jpg) also: who is this? Needs the
extra "demo". Nothing leaves the computer: the page is for this computer alone unless --host says
otherwise, it loads nothing from elsewhere, and the photos are deleted when it is stopped.
"""

import dataclasses
import errno
import importlib
import os
import pathlib
import socket
import tempfile
from typing import Annotated, Any

import numpy as np
from rich.console import Console

from arcface_jax.buckets import as_path
from arcface_jax.command_name import install
from arcface_jax.commands.command import (
    Checked,
    Cosine,
    Range,
    Share,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
)
from arcface_jax.commands.gallery import (
    Gallery,
    check_same_model,
    check_same_rule,
    embed_patterns,
    embed_photos,
    find_candidates,
    read_gallery,
)
from arcface_jax.commands.models import Embedder, Model, Project, open_embedder
from arcface_jax.commands.photos import Cropper, PhotoOptions, say_each_left_out, say_tally
from arcface_jax.counts import number_of
from arcface_jax.data.decode import encode_png
from arcface_jax.data.open import check_source, open_source
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError, reason
from arcface_jax.evaluation.embedding_rule import EmbeddingRule

from .identify import PEOPLE, choose_threshold

_ABOUT = (
    "The number is the similarity of two photos for this model: the cosine of the angle between "
    "their embeddings, 1 for equal ones and about 0 for strangers. From the threshold on the page "
    "says that they show one person."
)
_FONTS = ["system-ui", "sans-serif"]
_PHOTO_HEIGHT, _CROP_HEIGHT = 280, 190


@dataclasses.dataclass(frozen=True)
class Arguments(PhotoOptions):
    """The command line."""

    model: Model
    people: Annotated[str, Checked(check_source)] | None = None
    """People to recognise: a folder of NAME/photo.jpg, or what identify enrol wrote (.npz)."""
    far: Share | None = None
    """Rate at which a stranger is accepted, for which the thresholds are taken from the model card:
    by one other photo, and by any of the people.
    """
    threshold: Cosine | None = None
    """Cosine from which two photos show one person, instead of the card's; the page changes it."""
    project: Project = None
    host: str = "127.0.0.1"
    """Address to listen on. Others on the network can use the page at 0.0.0.0."""
    port: Annotated[int, Range(1, 65535)] = 7860
    """Port to listen on."""
    open: bool = True
    """Open the page in the browser."""


class Answers:
    """What the page says, without the page; `rule` is how its photos are embedded."""

    def __init__(
        self, embedder: Embedder, cropper: Cropper, gallery: Gallery | None, rule: EmbeddingRule
    ) -> None:
        self._embedder, self._cropper, self._gallery = embedder, cropper, gallery
        self._rule = rule

    def _crop_and_embed(self, *photos: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(crops, unit embeddings) of RGB photos."""
        names = ("Photo",) if len(photos) == 1 else ("First photo", "Second photo")
        crops = []
        for name, photo in zip(names, photos, strict=True):
            if photo is None:
                raise InputError(f"{name}: missing; choose one")
            crops.append(self._cropper.crop(photo, name))
        return np.stack(crops), self._embedder.embed(np.stack(crops))

    def compare(
        self, first: np.ndarray | None, second: np.ndarray | None, threshold: float
    ) -> tuple[str, np.ndarray | None, np.ndarray | None]:
        """(what to say, what the model saw of each photo); a fault is said instead."""
        try:
            crops, (one, other) = self._crop_and_embed(first, second)
        except InputError as error:
            return f"## {error}", None, None
        cosine = float(one @ other)
        answer = "The same person" if cosine >= threshold else "Different people"
        said = f"## {answer}\nSimilarity {cosine:.3f}, threshold {threshold:.3f}"
        card = self._embedder.card
        meaning = None if card is None else card.meaning(cosine, self._rule)
        return said if meaning is None else f"{said}\n\n{meaning}", *crops

    def name(self, photo: np.ndarray | None, threshold: float) -> tuple[str, np.ndarray | None]:
        """(what to say, what the model saw of the photo); a fault is said instead."""
        if self._gallery is None:
            raise InputError("people: nobody was enrolled; start with --people")
        try:
            crops, embeddings = self._crop_and_embed(photo)
        except InputError as error:
            return f"## {error}", None
        best = find_candidates(self._gallery.embeddings, embeddings, 1)
        cosine, likest = float(best.scores[0, 0]), str(self._gallery.names[best.indices[0, 0]])
        person = likest if cosine >= threshold else PEOPLE.unknown
        numbers = f"similarity {cosine:.3f}, threshold {threshold:.3f}"
        card, entries = self._embedder.card, len(self._gallery.names)
        told = self._gallery.rule.told
        tail = None if card is None or not told else card.strangers_by(self._rule)
        rare = "" if tail is None else f"\n\nStrangers so alike: {tail.words(cosine, entries)}"
        return f"## {person}\nMost alike: {likest}, {numbers}{rare}", crops[0]


def enrol(
    embedder: Embedder, people: str, cropper: Cropper, rule: EmbeddingRule, console: Console
) -> Gallery:
    """A gallery file, or the people of a source of photos, embedded by `rule`."""
    if people.endswith(".npz"):
        gallery = read_gallery(as_path(people))
        check_same_rule(console, gallery, as_path(people), rule, "the photos of the page")
        check_same_model(gallery, as_path(people), embed_patterns(embedder), embedder.name)
        return gallery
    source = open_source(people)
    with progress_bar(console, "Enrolling", len(source)) as move:
        embeddings, kept = embed_photos(embedder, source, cropper, move)
    say_each_left_out(console, source, cropper.left_out)
    names = np.array([source.identity_names[source.labels[index]] for index in kept])
    return Gallery(embeddings, names, names, rule=rule)


def drawn_examples(folder: pathlib.Path) -> list[list[str]]:
    """Two pairs of drawn faces, of one person and of two, as files in `folder`."""
    faces = SyntheticFaces(2, 2, image_size=112)
    files = []
    for number, image in enumerate(faces.render(np.arange(3))):
        files.append(str(folder / f"drawn-{number}.png"))
        as_path(files[-1]).write_bytes(encode_png(image))
    return [files[:2], files[1:]]


def build(
    answers: Answers,
    name: str,
    thresholds: tuple[float, float],
    people: int,
    examples: list[list[str]],
) -> Any:
    """The page, as Gradio's Blocks; without people there is nobody to name.

    Args:
      answers: what it says.
      name: of the model.
      thresholds: at first, of two photos and of a photo among the people.
      people: how many were enrolled.
      examples: pairs of files to click.
    """
    gradio = importlib.import_module("gradio")

    def photo(label: str) -> Any:
        source = {"type": "numpy", "sources": ["upload", "clipboard"]}
        return gradio.Image(label=label, buttons=[], height=_PHOTO_HEIGHT, **source)

    def crop(label: str) -> Any:
        return gradio.Image(label=label, interactive=False, buttons=[], height=_CROP_HEIGHT)

    def slider(threshold: float) -> Any:
        label = "Threshold: from this similarity on it is one person"
        return gradio.Slider(-1, 1, threshold, step=0.001, label=label)

    title = f"arcface-jax: {name}"
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 600)) as page:
        gradio.Markdown(f"# {title}\n{_ABOUT}")
        with gradio.Tab("Same person?"):
            of_two = slider(thresholds[0])
            with gradio.Row():
                first, second = photo("First photo"), photo("Second photo")
            gradio.Examples(examples, [first, second], label="Drawn faces, to try the page with")
            button = gradio.Button("Compare", variant="primary", elem_id="compare")
            said = gradio.Markdown(elem_id="compared")
            with gradio.Row():
                seen = [crop(f"What the model saw of the {which}") for which in ("first", "second")]
            outputs = [said, *seen]
            button.click(
                answers.compare, [first, second, of_two], outputs, api_visibility="private"
            )
        if people:
            with gradio.Tab("Who is this?"):
                among = slider(thresholds[1])
                asked = photo(f"Photo, to be found among {number_of(people, 'person')}")
                button = gradio.Button("Name", variant="primary", elem_id="name")
                named, saw = gradio.Markdown(elem_id="named"), crop("What the model saw")
                button.click(answers.name, [asked, among], [named, saw], api_visibility="private")
    return page


def check_address(host: str, port: int) -> None:
    """Whether a page can be served there: a free port of this computer's address."""
    if not 0 < port < 65_536:
        raise InputError(f"--port {port}: give a number from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # elsewhere this would allow a port that somebody listens on
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port: {port} is taken; give another") from error
        if error.errno == errno.EACCES:
            raise InputError(f"--port {port}: {error.strerror}; give one from 1024 on") from error
        advice = "give an address of this computer, such as 127.0.0.1"
        raise InputError(f"--host {host}: {error.strerror or error}; {advice}") from error


def run(arguments: Arguments) -> None:
    """Opens the model, enrols, serves until it is interrupted."""
    console = new_console(soft_wrap=True)
    # Read when Gradio is imported: it would report each start to its makers.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        gradio = importlib.import_module("gradio")
    except ImportError as error:
        raise InputError(f"the page needs Gradio; {install('demo')}") from error
    arguments.check()
    arguments.check_installed()
    check_address(arguments.host, arguments.port)
    about = (arguments.model, arguments, arguments.far, arguments.threshold, console)
    thresholds = (choose_threshold(*about),) * 2
    batch_size = 2 if arguments.people is None else None
    with progress_bar(console, f"Opening {arguments.model}"):
        embedder = open_embedder(
            arguments.model,
            flip=arguments.flip,
            batch_size=batch_size,
            project=arguments.project,
        )
    rule = arguments.rule(embedder.flip)
    options = (embedder.image_size, arguments.detect, arguments.face)
    cropper = Cropper(*options, skip_unreadable=True)
    gallery = None
    if arguments.people is not None:
        gallery = enrol(embedder, arguments.people, cropper, rule, console)
        say_tally(console, cropper.tally, arguments.face)
        thresholds = (thresholds[0], choose_threshold(*about, gallery, arguments.people))
    answers = Answers(embedder, cropper, gallery, rule)
    people = 0 if gallery is None else len(set(gallery.names.tolist()))
    with tempfile.TemporaryDirectory() as photos:
        os.environ["GRADIO_TEMP_DIR"] = photos
        examples = drawn_examples(as_path(photos))
        page = build(answers, embedder.name, thresholds, people, examples)
        try:
            page.launch(
                server_name=arguments.host,
                server_port=arguments.port,
                share=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                inbrowser=arguments.open,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size="50mb",
                theme=gradio.themes.Default(font=_FONTS, font_mono=["monospace"]),
            )
        except OSError as error:  # somebody was faster, or Gradio cannot reach its own page
            raise InputError(
                f"--host {arguments.host}, --port {arguments.port}: {reason(error)}; give others"
            ) from error
        say(console, f"http://{arguments.host}:{arguments.port} (Ctrl-C stops)")
        page.block_thread()


def main() -> None:
    """Reads the options and runs."""
    run(read_options(Arguments, "demo", __doc__))


if __name__ == "__main__":
    run_command(main)
