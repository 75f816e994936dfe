"""Which arrays of a checkpoint are the network and which the classifier, and what is refused."""

import pickle
import warnings
import zipfile

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.torch import import_torch, read_class_weights, save_safetensors

torch = pytest.importorskip("torch")

from tests.interop import torch_networks as networks  # noqa: E402 (needs torch)

CLASSES = torch.arange(66.0).reshape(11, 6)


@pytest.fixture(scope="module")
def backbone():
    return networks.randomise(networks.IResNet((1, 1, 1, 1))).state_dict()


def write(path, content):
    torch.save(content, path)
    return path


def write_shards(folder, backbone=None):
    """A file for each of 11 processes with one class, as arcface_torch writes them."""
    paths = []
    for rank in range(11):
        rows = CLASSES[rank : rank + 1].clone()
        name, content = f"rank_{rank}_softmax_weight.pt", rows
        if backbone is not None:
            state = {"state": {0: {"momentum_buffer": rows + 1}}, "param_groups": [{}]}
            content = {"state_dict_backbone": backbone, "state_dict_softmax_fc": {"weight": rows}}
            name, content = f"checkpoint_gpu_{rank}.pt", {**content, "state_optimizer": state}
        paths.append(write(folder / name, content))
    return paths


@pytest.mark.parametrize("with_backbone", [True, False])
@pytest.mark.parametrize(
    "given", [sorted, lambda paths: paths[::-1], lambda paths: paths[:1], lambda paths: paths[3]]
)
def test_all_processes_classes_in_the_order_of_their_numbers(
    tmp_path, backbone, with_backbone, given
):
    """By name rank 10 comes before rank 2. One of the files stands for all of them."""
    paths = write_shards(tmp_path, backbone if with_backbone else None)
    np.testing.assert_array_equal(read_class_weights(given(paths), 6), CLASSES)
    if with_backbone:
        np.testing.assert_array_equal(import_torch(paths[7]).class_weights, CLASSES)


def test_a_part_that_is_missing_is_named(tmp_path, backbone):
    paths = write_shards(tmp_path, backbone)
    with pytest.raises(InputError, match=r"gpu_10.pt: lies beside the others and is not given"):
        read_class_weights(paths[:10], 6)
    paths.pop(4).unlink()
    for given in (paths, paths[0]):
        with pytest.raises(InputError, match=r"gpu_0.pt: of the parts 0 to 10, 4 is missing"):
            read_class_weights(given, 6)
    model = import_torch(paths[0])
    assert model.class_weights is None
    assert model.source == (
        "checkpoint_gpu_0.pt (arcface_torch, without its classifier: checkpoint_gpu_0.pt: of the "
        "parts 0 to 10, 4 is missing; give all parts of the classes, each once)"
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["checkpoint_gpu_1.pt"],
            "0 to 1, 0 is missing; .*, or rename the file if it is the whole",
        ),
        (["rank_1.pt", "rank_2.pt"], "of the parts 0 to 2, 0 is missing"),
        (["gpu2.pt", "gpu1.pt"], "of the parts 0 to 2, 0 is missing"),
        (["part-1.pt"], "of the parts 0 to 1, 0 is missing"),
        (["8gpu_rank_3.pt"], "of the parts 0 to 3, 0, 1, 2 are missing"),
        (["gpu8_rank_1.pt"], "of the parts 0 to 1, 0 is missing"),
        (["softmax-00001-of-00003.pt"], "of the parts 1 to 3, 2, 3 are missing"),
        (["softmax-00001-of-00003.pt", "softmax-00002-of-00003.pt"], "1 to 3, 3 is missing"),
        (["softmax-00002-of-00003.pt", "softmax-00003-of-00003.pt"], "1 to 3, 1 is missing"),
        (["s_0_of_3.pt", "s_1_of_3.pt"], "of the parts 0 to 2, 2 is missing"),
        (["split_2of3.pt"], "of the parts 1 to 3, 1, 3 are missing"),
        (["rank_0_of_2.pt"], "of the parts 0 to 1, 1 is missing"),
        (["s_4_of_3.pt", "s_1_of_3.pt"], "s_4_of_3.pt: is no part of 3, by its name"),
        (["s_1_of_2.pt", "s_2_of_3.pt"], "the names tell of 2 and of 3 parts"),
        (["rank_0.pt", "rank_00.pt", "rank_1.pt"], "rank_00?.pt and rank_00?.pt are both part 0"),
        (["rank_900000000.pt"], "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 999991 more are missing"),
    ],
)
@pytest.mark.parametrize("all_given", [True, False])
def test_parts_are_whole_by_their_names(tmp_path, names, said, all_given):
    paths = [write(tmp_path / name, CLASSES[:2].clone()) for name in names]
    if len({len(name) for name in names}) > 1 or "1_of_2" in names[0]:
        all_given = True  # one file stands for those whose names differ in the number alone
    with pytest.raises(InputError, match=said) as error:
        read_class_weights(paths if all_given else paths[0], 6)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        ["rank_0.pt"],
        ["a.pt", "b.pt"],
        ["r50.pt"],
        ["part_1.pt", "part_2.pt"],
        ["b/rank_0.pt", "a/rank_1.pt"],
        ["rank_0/head.pt", "rank_1/head.pt"],
        ["softmax-00001-of-00002.pt", "softmax-00002-of-00002.pt"],
        ["softmax-00000-of-00002.pt", "softmax-00001-of-00002.pt"],
    ],
)
def test_whole_parts_are_read(tmp_path, names):
    for row, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, CLASSES[row : row + 1].clone())
    paths = [tmp_path / name for name in names]
    np.testing.assert_array_equal(read_class_weights(paths, 6), CLASSES[: len(names)])


def test_a_checkpoint_of_a_later_process_alone_has_no_classifier(tmp_path, backbone):
    path = write_shards(tmp_path, backbone)[1]
    for rank in (0, *range(2, 11)):
        (tmp_path / f"checkpoint_gpu_{rank}.pt").unlink()
    model = import_torch(path)
    assert model.class_weights is None
    assert "of the parts 0 to 1, 0 is missing" in model.source


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda w: {"net": w, "classifier": CLASSES}, "classifier (11×6, float32) could be it"),
        (lambda w: (w, CLASSES), "1 (11×6, float32) could be it"),
        (lambda w: {"net": w, "margin": {"W": CLASSES.T}}, "margin.W (6×11, float32) could be it"),
        (lambda w: {"net": w, "fc.weight": CLASSES.char()}, "fc.weight (11×6, int8) could be it"),
        (
            lambda w: {"net": w, "fc.weight": CLASSES.reshape(11, 1, 6)},
            "fc.weight (11×1×6, float32) could be it",
        ),
        (
            lambda w: {"net": w, "a": CLASSES, "b": CLASSES},
            "a (11×6, float32), b (11×6, float32) could all be it",
        ),
    ],
)
def test_what_may_be_a_classifier_is_not_lost_silently(tmp_path, backbone, wrap, said):
    model = import_torch(write(tmp_path / "model.pt", wrap(backbone)))
    assert model.class_weights is None
    assert model.source == f"model.pt (arcface_torch, without a classifier: {said})"


def test_an_optimiser_and_another_network_are_no_classifier(tmp_path, backbone):
    state = {"state": {0: {"momentum_buffer": CLASSES}}, "param_groups": [{}]}
    teacher = {"conv": torch.zeros(6, 3, 3, 3), "fc.weight": CLASSES}
    path = write(tmp_path / "model.pt", {"net": backbone, "optimiser": state, "teacher": teacher})
    assert import_torch(path).source == "model.pt (arcface_torch)"


def test_parts_of_two_trainings_are_not_joined(tmp_path):
    paths = [write(tmp_path / f"rank_{rank}.pt", CLASSES[: 3 + rank]) for rank in range(2)]
    with pytest.raises(InputError, match=r"rank_1.pt: has 4 classes, more than the 3 of the part"):
        read_class_weights(paths, 6)
    with pytest.raises(InputError, match=r"rank_\d.pt: a file is given twice"):
        read_class_weights([*paths, paths[0]], 6)
    with pytest.raises(InputError, match=r"paths: none"):
        read_class_weights([], 6)


@pytest.mark.parametrize(
    "content",
    [
        CLASSES,
        torch.nn.Parameter(CLASSES),
        {"W": CLASSES.T.contiguous()},
        {"state_dict": {"loss.weight": CLASSES}, "epoch": 3},
        {"weight": CLASSES, "bias": torch.zeros(11), "t": torch.zeros(1)},
    ],
)
def test_the_one_matrix_of_a_file_is_the_classifier(tmp_path, content):
    path = write(tmp_path / "head.pt", content)
    np.testing.assert_array_equal(read_class_weights(path, 6), CLASSES)


@pytest.mark.parametrize(
    ("prefix", "key"), [("backbone.", "criterion.weight"), ("module.net.", "module.head.kernel")]
)
def test_the_classifier_beside_a_known_network(tmp_path, backbone, prefix, key):
    weights = {prefix + name: value for name, value in backbone.items()}
    path = write(tmp_path / "model.ckpt", {"state_dict": weights | {key: CLASSES}})
    np.testing.assert_array_equal(read_class_weights(path, 6), CLASSES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("backbone", "it holds a network only; save the classifier in a file of its own"),
        ({"conv.weight": torch.zeros(2, 3, 3, 3), "fc.weight": CLASSES}, "it holds a network only"),
        ({"a": CLASSES, "b": CLASSES}, "2 matrices could be its classifier: a, b; save the right"),
        (CLASSES[:, :5], r"a matrix with 6 rows or columns .* it has the tensor \(11, 5\)"),
        (CLASSES.long(), "no classifier for 6-d embeddings"),
        ({"epoch": 3}, "it holds epoch"),
        (CLASSES * float("inf"), r"NaN, infinite .*: the tensor \(66 of 66\)"),
    ],
)
def test_what_is_no_classifier_is_refused(tmp_path, backbone, content, said):
    path = write(tmp_path / "head.pt", backbone if isinstance(content, str) else content)
    with pytest.raises(InputError, match=f"head.pt: .*{said}"):
        read_class_weights(path, 6)


def test_momentum_is_no_classifier(tmp_path):
    path = write(tmp_path / "rank_0_softmax_weight_mom.pt", CLASSES)
    with pytest.raises(InputError, match="is the momentum of class weights"):
        read_class_weights(path, 6)


@pytest.mark.parametrize(
    "wrap",
    [
        *(lambda w, name=name: {name: w, "epoch": 1} for name in ("net", "network", "params")),
        *(lambda w, name=name: {name: w} for name in ("weights", "model_state_dict", "ema")),
        lambda w: {"state": {"generator": w}},
        lambda w: [3, w],
    ],
)
def test_the_network_under_whatever_name(tmp_path, backbone, wrap):
    model = import_torch(write(tmp_path / "model.pt", wrap(backbone)))
    kernel = model.variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, backbone["conv1.weight"].permute(2, 3, 1, 0))


@pytest.mark.parametrize("prefixed", [True, False])
def test_of_two_networks_none_is_guessed(tmp_path, backbone, prefixed):
    both = {"model": backbone, "ema": backbone}
    if prefixed:
        both = {f"{name}.{key}": each for name, one in both.items() for key, each in one.items()}
    path = write(tmp_path / "two.pt", both)
    with pytest.raises(InputError, match=r"two.pt: several networks in it.*model.*; save the"):
        import_torch(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_a_whole_module_says_how_to_save_weights(tmp_path, zipped, inside):
    module = torch.nn.DataParallel(networks.IResNet((1, 1, 1, 1)))
    path = tmp_path / "module.pt"
    torch.save({"model": module} if inside else module, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"module.pt: .* whole module .*state_dict\(\)") as error:
        import_torch(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("constants.pkl", r"TorchScript.*torch.jit.load\(FILE\).state_dict\(\)"),
        ("archive_format", r"torch.export.*torch.export.load\(FILE\).state_dict"),
        ("serialized_exported_program.json", r"torch.export.*torch.export.load"),
    ],
)
def test_a_program_says_how_to_save_weights(tmp_path, mark, said):
    """By an entry that only torch.jit.save and torch.export.save write."""
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/data.pkl", pickle.dumps({}, 2))
        archive.writestr(f"program/{mark}", b"")
    with pytest.raises(InputError, match=f"program.pt: is a program of {said}"):
        import_torch(tmp_path / "program.pt")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fc.weight", float("nan"), r"fc.weight \(768 of 768\)"),
        ("bn1.bias", float("inf"), r"bn1.bias \(4 of 4\)"),
        ("bn1.running_var", -1.0, r"bn1.running_var \(4 of 4\)"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, backbone, key, value, said):
    bad = {**backbone, key: torch.full_like(backbone[key], value)}
    with pytest.raises(InputError, match=f"bad.pt: weights that are NaN, .*: {said}; the training"):
        import_torch(write(tmp_path / "bad.pt", bad))


def test_whole_numbers_are_no_weights(tmp_path, backbone):
    whole = {**backbone, "fc.weight": backbone["fc.weight"].char()}
    with pytest.raises(InputError, match=r"q.pt: fc.weight is stored as int8, and weights are due"):
        import_torch(write(tmp_path / "q.pt", whole))


def test_safetensors_in_and_out(tmp_path, backbone):
    """Exactly, and PyTorch's own reader finds the same."""
    ours = import_torch(write(tmp_path / "model.pt", backbone))
    save_safetensors(ours, tmp_path / "model.safetensors")
    model = import_torch(tmp_path / "model.safetensors")
    assert model.source == "model.safetensors (arcface_torch)"
    np.testing.assert_array_equal(
        model.variables["params"]["fc"]["kernel"], backbone["fc.weight"].T
    )
    theirs = pytest.importorskip("safetensors.torch").load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == backbone.keys()
    assert all(torch.equal(theirs[key], backbone[key]) for key in backbone)


@pytest.mark.parametrize("name", ["head.safetensors", "head.pth"])
def test_safetensors_of_other_types(tmp_path, name):
    """Under whatever name the file has; a type that is not read is named."""
    save = pytest.importorskip("safetensors.torch").save_file
    save({"weight": CLASSES.bfloat16()}, tmp_path / name)
    np.testing.assert_array_equal(
        read_class_weights(tmp_path / name, 6), CLASSES.bfloat16().float()
    )
    save({"weight": CLASSES.to(torch.float8_e4m3fn)}, tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: weight is stored as F8_E4M3"):
        read_class_weights(tmp_path / name, 6)


@pytest.mark.parametrize("key", ["conv1.weight", "bn1.bias"])
def test_weights_beyond_float32_are_refused_without_a_warning(tmp_path, backbone, key):
    """Warnings are errors here."""
    large = torch.full_like(backbone[key], 1e300, dtype=torch.float64)
    path = write(tmp_path / "large.pt", {**backbone, key: large})
    with pytest.raises(InputError, match=rf"large.pt: weights that are NaN, infinite .*: {key}"):
        import_torch(path)
    head = torch.full_like(CLASSES, 1e300, dtype=torch.float64)
    with pytest.raises(InputError, match=r"head.pt: weights that are NaN, .*: weight \(66"):
        read_class_weights(write(tmp_path / "head.pt", {"weight": head}), 6)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: CLASSES.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda: CLASSES.to(torch.uint16), "uint16"),
        (lambda: CLASSES.to(torch.complex64), "complexfloat"),
        (lambda: CLASSES.to_sparse(), "a sparse tensor"),
        (lambda: torch.quantize_per_tensor(CLASSES, 0.1, 0, torch.qint8), "a quantised tensor"),
    ],
)
def test_a_tensor_of_another_type_is_named(tmp_path, made, said, zipped):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = {"epoch": 1, "head": {"weight": made()}}
        path = tmp_path / "head.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=f"head.pt: weight is stored as {said}, which is not read"):
        read_class_weights(path, 6)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_is_no_text(tmp_path, zipped):
    path = tmp_path / "head.pt"
    torch.save({"weight": CLASSES}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for share in (0.3, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"head\.pt: is ") as error:
            read_class_weights(path, 6)
        assert "UTF-8" not in str(error.value)
        assert not zipped or "is cut short" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"junk", bytes(7) + b"\x7f{}", b"\x09" + bytes(7) + b"{"])
def test_damaged_safetensors_are_named(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad.safetensors: is no safetensors file that can be"):
        import_torch(path)
