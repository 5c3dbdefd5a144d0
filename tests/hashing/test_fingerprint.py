"""Fingerprints change with content and only with content."""

import hashlib
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.checkpoints import fingerprints
from kdcache.errors import KdcacheError, ModelError
from kdcache.hashing import fingerprint
from kdcache.hashing.digests import row_hash


def blake(content: bytes) -> int:
    """The first 8 bytes of BLAKE2b with 16, little-endian."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest()[:8], "little")


def test_of_json_is_sha256_of_the_canonical_text():
    expected = hashlib.sha256('{"a":[1,2.5,null,true],"b":"ü"}'.encode()).hexdigest()
    assert fingerprint.of_json({"b": "ü", "a": [1, 2.5, None, True]}) == expected


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), {"a": {1, 2}}, "\ud800"])
def test_of_json_refuses_what_is_not_json(value):
    with pytest.raises(KdcacheError, match="needs a JSON value"):
        fingerprint.of_json(value)


def test_of_files_depends_on_names_and_contents_only(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("A")
        (tmp_path / folder / "sub" / "b.txt").write_text("B")
        (tmp_path / folder / f"{folder}.log").write_text("ignored")
    one = fingerprint.of_files(tmp_path / "one", ["*.txt", "**/*.txt"])
    assert one == fingerprint.of_files(tmp_path / "two", ["sub/b.txt", "a.txt"])
    (tmp_path / "two" / "a.txt").write_text("changed")
    assert one != fingerprint.of_files(tmp_path / "two", "**/*.txt")
    (tmp_path / "one" / "a.txt").rename(tmp_path / "one" / "c.txt")
    assert one != fingerprint.of_files(tmp_path / "one", "**/*.txt")


def test_of_files_refuses_nothing(tmp_path):
    with pytest.raises(KdcacheError, match=r"no file matches \*\.txt"):
        fingerprint.of_files(tmp_path, ["*.txt"])
    with pytest.raises(KdcacheError, match="does not exist"):
        fingerprint.of_files(tmp_path / "none", ["*.txt"])


CONFIG = {"model_type": "bert", "hidden_size": 4, "text": {"layers": 2, "dtype": "float32"}}


def checkpoint(folder, files, config=CONFIG, metadata=None):
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name, tensors in files.items():
        save_file(tensors, folder / name, metadata=metadata)
    return folder


A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.ones(4, dtype=np.float16)


def test_of_weights_is_independent_of_the_file_layout(tmp_path):
    one = checkpoint(tmp_path / "one", {"model.safetensors": {"a": A, "b": B}}, metadata={"format": "pt"})
    config = {
        **CONFIG,
        "_name_or_path": "/x",
        "transformers_version": "9",
        "torch_dtype": "float16",
        "text": {"layers": 2},
    }
    files = {"model-00001-of-00002.safetensors": {"b": B}, "model-00002-of-00002.safetensors": {"a": A}}
    two = checkpoint(tmp_path / "two", files, config)
    assert fingerprints.of_weights(one) == fingerprints.of_weights(two)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": A + 1, "b": B},
        {"a": A.reshape(3, 2), "b": B},
        {"a": A, "b": B.view(np.int16)},
        {"a": A, "c": B},
        {"a": A},
    ],
    ids=["value", "shape", "dtype", "name", "missing"],
)
def test_of_weights_sees_every_change_of_a_tensor(tmp_path, tensors):
    one = checkpoint(tmp_path / "one", {"model.safetensors": {"a": A, "b": B}})
    two = checkpoint(tmp_path / "two", {"model.safetensors": tensors})
    assert fingerprints.of_weights(one) != fingerprints.of_weights(two)


def test_of_weights_sees_the_config_and_allows_it_alone(tmp_path):
    one = checkpoint(tmp_path / "one", {})
    two = checkpoint(tmp_path / "two", {}, {**CONFIG, "hidden_size": 8})
    assert fingerprints.of_weights(one) != fingerprints.of_weights(two)


def test_of_config_ignores_weights_and_volatile_keys(tmp_path):
    one = checkpoint(tmp_path / "one", {"model.safetensors": {"a": A}})
    two = checkpoint(tmp_path / "two", {}, {**CONFIG, "transformers_version": "9"})
    three = checkpoint(tmp_path / "three", {}, {**CONFIG, "hidden_size": 8})
    assert fingerprints.of_config(one) == fingerprints.of_config(two) != fingerprints.of_config(three)
    with pytest.raises(ModelError, match=r"no config\.json"):
        fingerprints.of_config(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, struct.pack("<Q", 5) + b"[1,2]"])
def test_of_weights_refuses_broken_safetensors(tmp_path, data):
    folder = checkpoint(tmp_path / "one", {})
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.safetensors: is no whole safetensors file"):
        fingerprints.of_weights(folder)


def test_of_weights_refuses_a_truncated_file(tmp_path):
    folder = checkpoint(tmp_path / "one", {"model.safetensors": {"a": A, "b": B}})
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is no whole safetensors file"):
        fingerprints.of_weights(folder)


def test_of_weights_refuses_no_checkpoint_pickles_and_doubles(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        fingerprints.of_weights(tmp_path)
    pickled = checkpoint(tmp_path / "pickled", {})
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="must be safetensors"):
        fingerprints.of_weights(pickled)
    double = checkpoint(tmp_path / "double", {"a.safetensors": {"a": A}, "b.safetensors": {"a": A}})
    with pytest.raises(ModelError, match="'a' is also in another file"):
        fingerprints.of_weights(double)


def test_of_tokenizer(tmp_path):
    with pytest.raises(ModelError, match="no tokenizer or preprocessor file"):
        fingerprints.of_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb")
    (tmp_path / "config.json").write_text("{}")
    first = fingerprints.of_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"changed": 1}')
    assert fingerprints.of_tokenizer(tmp_path) == first
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert fingerprints.of_tokenizer(tmp_path) != first


def test_of_tokenizer_ignores_where_its_files_came_from(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb")
    settings = tmp_path / "tokenizer_config.json"

    def written(**keys):
        settings.write_text(json.dumps({"do_lower_case": True, **keys}, indent=len(keys)))
        return fingerprints.of_tokenizer(tmp_path)

    assert written() == written(local_files_only=True, is_local=False) == written(name_or_path="/home/me")
    assert written() != written(do_lower_case=False)
    settings.write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        fingerprints.of_tokenizer(tmp_path)


SOURCE = '''
"""Docstring."""
def f(x):
    """Another."""
    return x + 1  # comment
class A:
    "doc"
    y = "kept"
'''


def test_a_tensor_without_values_has_no_fingerprint():
    with pytest.raises(
        KdcacheError, match=r"on the device 'meta' has no values to fingerprint .*pass `fingerprints`"
    ):
        fingerprint.of_value({"weight": torch.empty(2, device="meta")})
    with pytest.raises(KdcacheError, match="a set has no stable content to fingerprint; pass `fingerprints`"):
        fingerprint.of_value([{1}])


def test_row_hash_is_blake2b_over_length_prefixed_parts():
    content = struct.pack("<Q", 2) + b"ab" + struct.pack("<Q", 0) + b"i" + struct.pack("<q", 3)
    assert row_hash([b"ab", b""], 3) == blake(content)
    content = struct.pack("<Q", 1) + b"x" + b"f" + struct.pack("<d", 2.5)
    assert row_hash([b"x"], 2.5) == blake(content)


def test_row_hash_takes_numpy_labels():
    assert row_hash([b"x"], np.int64(1)) == row_hash([b"x"], 1)
    assert row_hash([b"x"], np.float32(0.5)) == row_hash([b"x"], 0.5)
    assert row_hash([b"x"], -0.0) == row_hash([b"x"], 0.0)


ROWS = st.tuples(st.lists(st.binary(max_size=9), max_size=3), st.integers(-1, 3) | st.floats(allow_nan=False))


@given(ROWS, ROWS)
def test_row_hash_is_equal_only_for_equal_rows(one, two):
    same = one == two and type(one[1]) is type(two[1])
    assert (row_hash(*one) == row_hash(*two)) is same


def test_light_imports():
    code = (
        "import sys, kdcache.study.mistakes, kdcache.checkpoints.fingerprints, kdcache.logits, kdcache.cli\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'sklearn', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
