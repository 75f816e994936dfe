import multiprocessing
import pickle
import re
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.data.landmarks import by_path
from arcface_jax.data.sources import recordio
from arcface_jax.data.sources.lists import read_lst
from arcface_jax.data.sources.recordio import RecordIOSource
from arcface_jax.data.sources.recordio_format import (
    MAGIC,
    RecordFile,
    RecordWriter,
    format_index,
    pack,
    read_index,
    scan_index,
    unpack,
)
from arcface_jax.errors import InputError


@pytest.fixture
def golden_files(golden, tmp_path):
    (tmp_path / "train.rec").write_bytes(golden.rec)
    (tmp_path / "train.idx").write_text(golden.idx)
    return tmp_path


def write_records(path, contents: list[bytes]) -> list[int]:
    writer = RecordWriter(path)
    offsets = [writer.write(content) for content in contents]
    writer.close()
    return offsets


def test_the_golden_file_is_read(golden, golden_files):
    source = RecordIOSource(golden_files)
    assert [source.encoded(index) for index in range(4)] == golden.payloads
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1])
    assert list(source.identity_names) == ["0", "1"]
    assert source.where(2) == f"{golden_files / 'train.rec'} at offset 80 (key 3)"
    assert RecordIOSource(golden_files / "train.rec").fingerprint == source.fingerprint
    header = RecordFile(golden_files / "train.rec").read(248)
    np.testing.assert_array_equal(header.labels, [5, 7])


def test_the_golden_file_is_written_bit_for_bit(golden, tmp_path):
    contents = [
        pack(label, key, payload)
        for key, (label, payload) in enumerate(zip([0, 0, 1, 1], golden.payloads, strict=True), 1)
    ]
    contents += [pack((1, 3), 5), pack((3, 5), 6)]
    header = bytearray(pack((5, 7), 0))
    header[16] = 1  # that writer set id2 of the header
    offsets = write_records(tmp_path / "x.rec", [*contents, bytes(header)])
    assert (tmp_path / "x.rec").read_bytes() == golden.rec
    assert format_index([1, 2, 3, 4, 5, 6, 0], offsets) == golden.idx


def test_a_missing_index_is_rebuilt(golden, golden_files):
    with_index = RecordIOSource(golden_files)
    (golden_files / "train.idx").unlink()
    rebuilt = RecordIOSource(golden_files)
    assert [rebuilt.encoded(index) for index in range(4)] == golden.payloads
    assert rebuilt.fingerprint == with_index.fingerprint
    assert format_index(*scan_index(RecordFile(golden_files / "train.rec"))) == golden.idx


# Payloads made of the magic number's own bytes find every way of cutting at it.
tricky = st.lists(st.sampled_from([MAGIC, MAGIC[:1], MAGIC[1:3], b"\0", b"ab"]), max_size=12).map(
    b"".join
)


@settings(max_examples=150)
@given(contents=st.lists(st.binary(max_size=40) | tricky, min_size=1, max_size=6))
def test_any_content_comes_back(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("records") / "x.rec"
    offsets = write_records(path, contents)
    file = RecordFile(path)
    assert list(file.scan()) == offsets
    assert [file.content(offset) for offset in offsets] == contents
    assert len(file) % 4 == 0
    stored = path.read_bytes()
    starts = {at for at in range(0, len(stored), 4) if stored[at : at + 4] == MAGIC}
    assert set(offsets) <= starts  # a magic number at an aligned place always starts a part
    for at in starts:
        word = struct.unpack_from("<I", stored, at + 4)[0]
        assert word >> 29 in ((0, 1) if at in offsets else (2, 3))


@settings(max_examples=100)
@given(
    labels=st.integers(0, 2**24) | st.lists(st.integers(0, 2**24), min_size=1, max_size=5),
    key=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=30),
)
def test_headers_come_back(labels, key, payload):
    record = unpack(pack(labels, key, payload), "x")
    assert record.id == key
    assert record.payload == payload
    assert record.labels.tolist() == (labels if isinstance(labels, list) else [labels])
    assert record.has_label_list == isinstance(labels, list)


def test_labels_in_bulk_are_those_of_the_records(tmp_path):
    contents = [
        pack(3, 1, b"image"),
        pack((1, 2), 2),
        pack((7,), 3, b"x"),
        pack((1, 2, 3), 4, b"yy"),
        pack(struct.unpack("<f", MAGIC)[0], 5, b"label is the magic number"),
        pack(5, struct.unpack("<Q", MAGIC + MAGIC)[0], b""),
    ]
    offsets = write_records(tmp_path / "x.rec", contents)
    file = RecordFile(tmp_path / "x.rec")
    heads = file.read_heads(np.array(offsets))
    for row, content in enumerate(contents):
        record = unpack(content, "x")
        np.testing.assert_array_equal(heads.labels[row, : len(record.labels)], record.labels[:2])
        assert np.isnan(heads.labels[row, len(record.labels) :]).all()
        assert heads.listed[row] == record.has_label_list
        assert heads.payload_bytes[row] == len(record.payload)
    assert heads.ends.tolist() == [*offsets[1:], len(file)]


def test_a_file_without_a_header_record_is_a_list_of_images(tmp_path):
    offsets = write_records(
        tmp_path / "x.rec", [pack(7, 10, b"a"), pack(3, 11, b"b"), pack((7, 0.5), 12, b"c")]
    )
    (tmp_path / "x.idx").write_text(format_index([10, 11, 12], offsets))
    source = RecordIOSource(tmp_path / "x.rec")
    np.testing.assert_array_equal(source.labels, [1, 0, 1])
    assert list(source.identity_names) == ["3", "7"]


def test_more_images_than_float32_counts(tmp_path, monkeypatch):
    # Key 2²⁴ + 3 for the first identity is stored as 2²⁴ + 4; keys in the index are exact.
    counted = []
    monkeypatch.setattr(
        RecordIOSource, "_check_counted", lambda _, *numbers: counted.append(numbers)
    )
    big = 2**24
    contents = [
        pack((big + 4, big + 6), 0),
        *(pack(label, big + key, b"i") for key, label in ((0, 0), (1, 0), (2, 1))),
        pack((1, big), big + 3),
        pack((big, big), big + 4),
    ]
    offsets = write_records(tmp_path / "x.rec", contents)
    (tmp_path / "x.idx").write_text(format_index([0, *range(big, big + 5)], offsets))
    np.testing.assert_array_equal(RecordIOSource(tmp_path / "x.rec").labels, [0, 0, 1])
    assert counted == [(big + 2, big - 1, 2, 0)]  # all but three keys are left out here


def test_labels_that_float32_merges_are_refused(tmp_path):
    with pytest.raises(InputError, match="record 1: label 16777217 is not exact in float32"):
        pack(2**24 + 1, 1)
    write_records(tmp_path / "x.rec", [pack(2**24, 1, b"a"), pack(2**24 + 2, 2, b"b")])
    with pytest.raises(InputError, match=r"x\.rec at offset 0: label 16777216 is 2²⁴ or more"):
        RecordIOSource(tmp_path / "x.rec")


@pytest.mark.parametrize("label", [-1.0, 0.5, float("inf"), float("nan")])
def test_labels_that_are_no_counts_are_refused(tmp_path, label):
    write_records(tmp_path / "x.rec", [struct.pack("<IfQQ", 0, label, 1, 0) + b"a"])
    with pytest.raises(InputError, match=r"offset 0: label .* is not a count from 0"):
        RecordIOSource(tmp_path / "x.rec")


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (80, b"\0", "offset 80: damaged record .*starts with"),
        (84, b"\xff\xff\xff\x1f", "offset 80: damaged record .*the file ends after"),
        (84 + 3, b"\xe0", "offset 80: damaged record .*unknown part kind 7"),
        (84 + 3, b"\x40", "offset 80: damaged record .*middle"),
        (120 + 3, b"\x20", "offset 80: damaged record .*next part is missing at offset 116"),
        (88, b"\xff\xff\xff\x7f", "announces 2147483647 labels"),
        (248 + 32, b"\0\0\xc0\x7f", "key 0.*two keys are due"),
        (248 + 4, b"\x05", "5 bytes are too few for a record's header"),
        (168 + 32, b"\0\0\x80\xbf", "offset 168: key 5 does not hold a range of image keys"),
    ],
)
def test_damage_is_named_with_its_offset(golden, golden_files, at, new, message):
    content = bytearray(golden.rec)
    content[at : at + len(new)] = new
    (golden_files / "train.rec").write_bytes(content)

    def read_all():
        source = RecordIOSource(golden_files)
        return [source.encoded(index) for index in range(len(source))]

    with pytest.raises(InputError, match=message):
        read_all()


def test_a_scan_can_go_on_after_damage(golden, golden_files):
    content = bytearray(golden.rec)
    content[40] ^= 1
    (golden_files / "train.rec").write_bytes(content)
    file = RecordFile(golden_files / "train.rec")
    with pytest.raises(InputError, match="offset 40"):
        list(file.scan())
    damaged: list[str] = []
    assert list(file.scan(damaged)) == [0, 80, 128, 168, 208, 248]
    assert len(damaged) == 1


def packed_labels(count: int, numbers: int) -> list[bytes]:
    """Images as im2rec packs them with --pack-label: keys from 0, a class and more numbers."""
    rest = (30.0, 0.5, 7.25)[: numbers - 1]
    return [pack([5.0 + i // 3, *rest], i, b"JPEG%d" % i) for i in range(count)]


@pytest.mark.parametrize("numbers", [1, 2, 3, 4])
@pytest.mark.parametrize("indexed", [True, False])
def test_packed_labels_without_a_header_record(tmp_path, numbers, indexed):
    offsets = write_records(tmp_path / "train.rec", packed_labels(12, numbers))
    if indexed:
        (tmp_path / "train.idx").write_text(format_index(range(12), offsets))
    source = RecordIOSource(tmp_path)
    assert [source.encoded(index) for index in range(12)] == [b"JPEG%d" % i for i in range(12)]
    np.testing.assert_array_equal(source.labels, np.arange(12) // 3)
    assert list(source.identity_names) == ["5", "6", "7", "8"]
    assert source.remarks == ()


def with_header(header=(7, 9), images=6, ranges=((1, 4), (4, 7)), labels=None, numbers=1):
    """insightface's records, as a list of (key, content): header, images, identities."""
    labels = labels or [(key - 1) // 3 for key in range(1, images + 1)]
    contents = [(0, pack(header, 0))]
    for key, label in enumerate(labels, 1):
        packed = label if numbers == 1 else [label, *range(numbers - 1)]
        contents.append((key, pack(packed, key, b"JPEG")))
    return contents + [
        (images + 1 + i, pack(pair, images + 1 + i)) for i, pair in enumerate(ranges)
    ]


def write_indexed(folder, records, *, keep=lambda key: True, change=lambda text: text):
    """Records and their index; `keep` says which keys the index has."""
    offsets = write_records(folder / "train.rec", [content for _, content in records])
    lines = [(key, at) for (key, _), at in zip(records, offsets, strict=True) if keep(key)]
    (folder / "train.idx").write_text(change(format_index(*zip(*lines, strict=True))))


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Both ways to read: every record, and, of large files, few of them."""
    if request.param == "large":
        monkeypatch.setattr(recordio, "_READ_WHOLE_BYTES", 0)
    return request.param


@pytest.mark.parametrize("numbers", [1, 2, 3])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_header_record_and_packed_labels(tmp_path, size, numbers, place):
    records = with_header(numbers=numbers)
    write_indexed(tmp_path, records if place == "first" else records[1:] + records[:1])
    source = RecordIOSource(tmp_path)
    np.testing.assert_array_equal(source.labels, [0, 0, 0, 1, 1, 1])
    assert source.remarks == ()


@pytest.mark.parametrize(
    ("records", "identities", "lacking"),
    [(with_header()[:-1], 2, 1), (with_header((7, 12)), 5, 3)],
)
def test_identities_that_the_header_counts_and_the_file_lacks_are_said(
    tmp_path, size, caplog, records, identities, lacking
):
    write_indexed(tmp_path, records)
    source = RecordIOSource(tmp_path)
    np.testing.assert_array_equal(source.labels, [0] * 3 + [1] * 3)
    (said,) = source.remarks
    assert said == (
        f"{tmp_path / 'train.rec'}: its header record counts {identities} identities, and "
        f"{lacking} of their records are not in the file"
    )
    assert said in caplog.text


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    ("left", "lacking"),
    [
        ([0, 1, 2], 4),  # cut at a record's end
        ([0, 1, 2, 3, 4, 5], 1),
        ([1, 2, 0], 4),
        ([0, 1, 3, 4, 6, 7, 8], 2),  # left out in packing
        ([0, 1, 3, 4, 5, 6, 7, 8], 1),
    ],
)
def test_fewer_images_than_the_header_counts_are_an_error(tmp_path, size, indexed, left, lacking):
    records = dict(with_header())
    write_indexed(tmp_path, [(key, records[key]) for key in left])
    if not indexed:
        (tmp_path / "train.idx").unlink()
    with pytest.raises(
        InputError, match=rf"train\.rec: its header record counts 6 images, and {lacking} of them"
    ):
        RecordIOSource(tmp_path)


def write_list(folder, lines):
    (folder / "train.lst").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("form", ["1\t{}/{}.jpg\t{}", "{1}\t{2}\t{0}/{1}.jpg"])
@pytest.mark.parametrize("header", [True, False])
def test_the_list_beside_the_records(tmp_path, form, header):
    contents = with_header((5, 7), images=4, ranges=((1, 3), (3, 5)), labels=[0, 0, 1, 1])
    write_indexed(tmp_path, contents if header else contents[1:5])
    lines = [form.format("ab"[key > 1], key, int(key > 1)) for key in range(4)]
    write_list(tmp_path, lines)
    source = RecordIOSource(tmp_path)
    assert source.identity_names == ["a", "b"]
    assert source.remarks == ()
    write_list(tmp_path, [*lines, form.format("b", 4, 1)])
    with pytest.raises(
        InputError, match=r"train\.lst: lists 5 images, but .*train\.rec has 4; res"
    ):
        RecordIOSource(tmp_path)
    for changed, why in (
        (lines[:3], "it lists 3 images, and"),
        ([form.format("x", key, 1) for key in range(4)], "2 of its 4 labels are not those of"),
        ([line.replace("b/", "a/") for line in lines], "its paths have no folder for each"),
        ([line.replace("a/", "").replace("b/", "") for line in lines], "its paths have no folder"),
        ([line.replace("a/1", "c/1") for line in lines], "its paths have several folders for an"),
        (["nonsense"], "it cannot be read"),
    ):
        write_list(tmp_path, changed)
        source = RecordIOSource(tmp_path)
        assert source.identity_names == ["0", "1"]
        (remark,) = source.remarks
        assert f"train.lst: is not used, for {why}" in remark


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("2,112,112", None),
        ("2\n", None),
        ("9,112,112", r"property: counts 9 identities, but the images of .*train\.rec are of 2"),
        ("1,112,112", "property: counts 1 identity, but"),
        ("\u5b89,1", "does not begin with a number of identities"),
        ("", "does not begin with a number of identities"),
    ],
)
def test_insightfaces_property(tmp_path, text, remark):
    write_indexed(tmp_path, with_header())
    (tmp_path / "property").write_text(text, encoding="utf-8")
    remarks = RecordIOSource(tmp_path).remarks
    assert len(remarks) == (remark is not None)
    assert remark is None or re.search(remark, remarks[0])


@pytest.mark.parametrize("header", [(5.0,), (5.0, float("nan")), (float("inf"), 7.0)])
def test_a_header_without_two_keys(tmp_path, header):
    content = struct.pack("<IfQQ", len(header), 0.0, 0, 0)
    content += struct.pack(f"<{len(header)}f", *header)
    write_indexed(tmp_path, [(0, content), *with_header()[1:]])
    shown = ", ".join(f"{label:g}" for label in header)
    with pytest.raises(InputError, match=rf"\(key 0\): holds {shown} where two keys are due, of"):
        RecordIOSource(tmp_path)


@pytest.mark.parametrize(
    ("records", "keep", "message"),
    [
        (packed_labels(6, 1), lambda key: key < 4, "does not list 2 of the records of"),
        (packed_labels(6, 2), lambda key: key != 2, "does not list 1 of the records of"),
        (with_header(), lambda key: key < 6, "does not list 3 of the records of"),
        (with_header(), lambda key: key != 3, "does not list 1 of the records of"),
        (with_header(), lambda key: key, "does not list 1 of the records of"),
        (with_header((5, 7)), None, r"key 7 \(and 1 more\) is beyond key 7"),
        (with_header((5, 9)), None, r"key 5 \(and 1 more\) is an image, where"),
        (with_header((5, 9), numbers=2), None, r"key 5 \(and 1 more\) is an image"),
        (with_header((8, 9)), None, "key 7 has labels and no image, .* identities start at key 8"),
        (with_header((1, 9)), None, "no image before key 1, where identities start"),
        (with_header((5, 3)), None, "where two keys are due"),
        (with_header(ranges=((1, 4), (4, 9))), None, "key 8 does not hold a range of image keys"),
        (with_header(ranges=((1, 4), (4, 6))), None, "key 6 is an image that no identity record"),
        (with_header(ranges=((1, 3), (5, 7))), None, r"key 3 \(and 1 more\) is an image that no"),
        (with_header(ranges=((1, 4), (1, 1))), None, r"key 4 \(and 2 more\) is an image that no"),
        (with_header(ranges=((1, 5), (4, 7))), None, "key 8 holds image 4, which another identity"),
        (with_header(ranges=((1, 7), (4, 7))), None, "key 8 holds image 4, which another identity"),
        (with_header((7, 10), ranges=((1, 7), (2, 3), (4, 7))), None, r"key 8 \(and 1 more\) hol"),
        (with_header(ranges=((4, 7), (1, 5))), None, "key 7 holds image 4, which another identity"),
        (with_header(ranges=((1, 4), (1, 4))), None, "key 8 holds image 1, which another identity"),
        (with_header(ranges=((1, 4), (7, 4))), None, "key 8 does not hold a range of image keys"),
        (with_header(ranges=((-1, 4), (4, 7))), None, "key 7 does not hold a range of image keys"),
        (with_header(ranges=((1, 3.5), (4, 7))), None, "key 7 does not hold a range of image keys"),
        (with_header(ranges=((1,), (4, 7))), None, "key 7 does not hold a range of image keys"),
    ],
)  # fmt: skip
def test_header_index_and_records_must_agree(tmp_path, size, records, keep, message):
    if isinstance(records[0], bytes):
        records = list(enumerate(records))
    write_indexed(tmp_path, records, keep=keep or (lambda key: True))
    with pytest.raises(InputError, match=message):
        RecordIOSource(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("5\t", "5\t0\n9\t"), r"offset 0 \(key 0 and 5\) is in a"),
        (lambda text: text + "6\t44\n", "offset 44: damaged record"),
        (lambda text: text + "6\t40000\n", "key 6 at offset 40000 is no place"),
        (lambda text: text + text, "a key stands there twice"),
        (lambda text: text.replace("\n", "\t40\n"), "empty, cut off"),
    ],
)  # fmt: skip
def test_entries_of_the_index_that_are_no_record(tmp_path, change, message):
    write_indexed(tmp_path, list(enumerate(packed_labels(6, 2))), change=change)
    with pytest.raises(InputError, match=message):
        RecordIOSource(tmp_path)


def test_an_index_that_is_cut(tmp_path, size):
    write_indexed(tmp_path, with_header())
    text = (tmp_path / "train.idx").read_text()
    (tmp_path / "train.idx").write_text(text.rstrip("\n"))
    assert len(RecordIOSource(tmp_path)) == 6
    for end in range(len(text) - 2, 0, -1):
        (tmp_path / "train.idx").write_text(text[:end])
        with pytest.raises(InputError, match=r"\.idx: (is|empty, c|does not list|off)|no image b"):
            RecordIOSource(tmp_path)
    (tmp_path / "train.idx").write_text(text[:-2])
    with pytest.raises(
        InputError, match=r"train\.idx: is cut in its last line \(key 8 at offset \d+, where no rec"
    ):
        RecordIOSource(tmp_path)


def test_labels_that_their_identity_contradicts(tmp_path):
    write_indexed(tmp_path, with_header(labels=[0, 0, 1, 1, 1, 1]))
    with pytest.raises(InputError, match="key 3 is of another identity than key 1"):
        RecordIOSource(tmp_path)


@pytest.mark.parametrize(
    ("ranges", "labels", "found", "remark"),
    [
        (((1, 4), (4, 7)), [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], None),
        (((4, 7), (1, 4)), [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], None),
        (((1, 4), (4, 7)), [8] * 6, [0] * 6, "1 label has several identity records, such as "
         "label 8 of images 1 and 4; images of one label count as one identity"),
        (((1, 3), (3, 4), (4, 7)), [5, 5, 2, 5, 5, 5], [1, 1, 0, 1, 1, 1],
         "1 label has several identity records, such as label 5 of images 1 and 4"),
        (((1, 2), (2, 3), (3, 5), (5, 7)), [1, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0],
         "2 labels have several identity records, such as label 0 of images 2 and 5"),
        (((1, 4), (4, 4), (4, 7)), [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1],
         "1 of 3 identity records hold no image, such as key 8"),
        ((), [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], None),
    ],
)  # fmt: skip
def test_identity_records_that_images_share(tmp_path, size, ranges, labels, found, remark):
    records = with_header((7, 7 + len(ranges)), ranges=ranges, labels=labels)
    write_indexed(tmp_path, records)
    source = RecordIOSource(tmp_path)
    np.testing.assert_array_equal(source.labels, found)
    assert len(source.remarks) == (remark is not None)
    assert (remark or "") in "".join(source.remarks)


def test_a_lost_index_whose_keys_nothing_tells(tmp_path):
    records = [unpack(content, "x") for _, content in with_header()]
    contents = [
        pack(one.labels if one.has_label_list else float(one.labels[0]), 0, one.payload)
        for one in records
    ]
    write_records(tmp_path / "train.rec", contents)  # the header is first: positions are keys
    np.testing.assert_array_equal(RecordIOSource(tmp_path).labels, [0, 0, 0, 1, 1, 1])
    write_records(tmp_path / "train.rec", contents[1:] + contents[:1])
    with pytest.raises(InputError, match=r"and 2 more\) has labels and no image.*restore"):
        RecordIOSource(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("", "empty, cut off"),
        ("1\t0\n2", "empty, cut off"),
        ("1\tzero\n", "not an index"),
        ("1\t99999999999999999999999\n", "not an index"),
        ("1\t0\n1\t40\n", "a key stands there twice"),
        ("-1\t0\n", "negative"),
        ("1\t2\n", "key 1 at offset 2 is no place"),
        ("1\t4000\n", "key 1 at offset 4000 is no place in the 288 bytes"),
        ("1\t44\n", "offset 44: damaged record"),
    ],
)
def test_a_bad_index_is_refused(golden_files, index, message):
    (golden_files / "train.idx").write_text(index)
    with pytest.raises(InputError, match=message):
        RecordIOSource(golden_files)


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"train\.rec: cannot open this record file \(No such file"
    ):
        RecordIOSource(tmp_path)
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(InputError, match="empty file"):
        RecordIOSource(tmp_path)
    with pytest.raises(InputError, match=r"none\.idx: cannot read this index"):
        read_index(tmp_path / "none.idx")


def _read_all(source):
    return [source.encoded(index) for index in range(len(source))]


def test_threads_and_processes_read_what_one_reads(golden, golden_files):
    source = RecordIOSource(golden_files)
    wrong = []
    threads = [
        threading.Thread(
            target=lambda: wrong.extend(_read_all(source) != golden.payloads for _ in range(100))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(wrong)
    assert _read_all(pickle.loads(pickle.dumps(source))) == golden.payloads
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        read = pool.apply_async(RecordIOSource.encoded, (source, 2))
        assert read.get(timeout=120) == golden.payloads[2]  # leaving the pool kills its process


def test_train_lst(tmp_path):
    (tmp_path / "train.lst").write_text(
        "1\ta/1.jpg\t0\n0\tb b/2.jpg\t3\t1\t2\t3\t4\n0\tc.jpg\t3\t1\t2\t3\t4\t"
        + "\t".join("0123456789")
        + "\n\n"
    )
    lines = list(read_lst(tmp_path / "train.lst"))
    assert [(line.path, line.label) for line in lines] == [
        ("a/1.jpg", 0),
        ("b b/2.jpg", 3),
        ("c.jpg", 3),
    ]
    assert lines[1].landmarks is None
    np.testing.assert_array_equal(lines[2].landmarks, [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]])
    for text, message in (
        ("1\ta\n", "line 1: 2 columns"),
        ("1\ta\tx\n", "line 1: label 'x'; a whole number"),
    ):
        (tmp_path / "bad.lst").write_text(text)
        with pytest.raises(InputError, match=message):
            list(read_lst(tmp_path / "bad.lst"))
    with pytest.raises(InputError, match="cannot read"):
        list(read_lst(tmp_path / "none.lst"))


def test_the_list_of_another_program_beside_the_records_is_passed_over(golden_files):
    (golden_files / "train.lst").write_text(
        "0\t1.000000\ta/b.jpg\n1\t0.000000\ta/c.jpg\n"
    )  # as im2rec writes it
    source = RecordIOSource(golden_files)
    assert source.path(0) is None
    assert "train.lst: is not used, for it lists 2 images, and" in source.remarks[0]
    with pytest.raises(InputError, match="landmarks: the images have no file names"):
        by_path(source, {})
