"""An S3 remote between two machines: one trains the teacher, the other one students, who only need its logits."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests.pipeline.conftest import Checkout

# moto asks for some, and looks at none.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def s3() -> Iterator[str]:
    """The address of a local S3 server that has the bucket `study`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    with urllib.request.urlopen(urllib.request.Request(f"{address}/study", method="PUT")) as answer:
        assert answer.status == 200
    yield address
    server.stop()


def in_dvc_cache(checkout: Checkout, md5: str) -> bool:
    return (checkout.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).exists()


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_students_fetch_logits_and_never_a_teacher(new_checkout: Callable[[str], Checkout], s3: str) -> None:
    teacher, students = new_checkout("teacher"), new_checkout("students")
    for checkout in (teacher, students):
        checkout.environment.update(CREDENTIALS)
        del checkout.study["distillers"]["self_kd"], checkout.study["regularizers"]["smooth"]
        checkout.save()
    teacher.run("dvc", "remote", "add", "--default", "shared", "s3://study/cache")
    teacher.run("dvc", "remote", "modify", "shared", "endpointurl", s3)
    stages = ["prepare@weather", "tune", "teach@weather-big", "cache@weather-big"]
    assert teacher.repro("cache@weather-big") == stages
    teacher.run("dvc", "push")

    for name in ("dvc.lock", ".dvc/config"):  # what Git would bring
        shutil.copy(teacher.folder / name, students.folder / name)
    students.run("dvc", "pull", "prepare", "cache")
    output = students.run("python", "-m", "kdcache", "repro", "--allow-missing")
    ran = {line.split(":")[0] for line in output.splitlines() if ": done in " in line}
    assert ran == {"tune", "train@weather-small-base", "distill@weather-small-kd", "compare", "report"}
    assert "stages 7/7, trials 2/2" in output
    assert students.repro("--pull", "--allow-missing") == []  # nor does DVC find that it needs a teacher
    assert not (students.folder / "data/teachers").exists()
    weights = md5_of(teacher.folder / "data/teachers/weather/big/model.safetensors")
    assert in_dvc_cache(teacher, weights)
    assert not in_dvc_cache(students, weights)
    for path in ("manifest.json", "train/part-00000.parquet"):
        logits = f"data/logits/weather/big/{path}"
        assert (students.folder / logits).read_bytes() == (teacher.folder / logits).read_bytes()
    assert set(students.results("kd")) == {0}
    assert [row["regularizer"] for row in students.table("comparisons.csv")] == ["kd"]
