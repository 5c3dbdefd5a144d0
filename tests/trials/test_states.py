"""A training's state on disk: taken by that very training, run as it was, or by none."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kdcache.errors import TrialError
from kdcache.training.state import State
from kdcache.trials import states
from kdcache.trials.states import FILE, UNUSED_DAYS, KeptState, minutes
from tests.forked import forked


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state(steps: int = 7) -> State:
    tensors = {
        "model.weight": torch.arange(6.0).view(2, 3).T,  # not contiguous
        "optimizer.0.step": torch.tensor(7.0),
        "process.0.cpu": torch.get_rng_state(),
    }
    return State(tensors, {"epoch": 1, "batch": 2, "losses": [0.1 + 0.2], "steps": steps, "seconds": 1.5})


def kept(identity: str = "one", how_often: float | None = 0.0) -> KeptState:
    return KeptState(identity, how_often)


def write(identity: str = "one") -> Path:
    """A state that a killed process left."""
    keeper = kept(identity)
    keeper.write(state())
    keeper.release()
    return keeper.folder / FILE


def test_a_state_comes_back_bit_for_bit() -> None:
    write()
    found = kept().read()
    assert found is not None
    for name, value in state().tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)
    expected = state().rest
    assert {key: found.rest[key] for key in expected} == expected


def test_it_lies_outside_what_dvc_and_the_store_keep(project: Path) -> None:
    assert write() == project / ".kdcache" / "training" / "one" / "state.safetensors"


def test_the_later_state_replaces_the_earlier() -> None:
    keeper = kept()
    keeper.write(state(7))
    keeper.write(state(8))
    keeper.release()
    found = kept().read()
    assert found is not None
    assert found.rest["steps"] == 8
    assert [path.name for path in keeper.folder.iterdir()] == [FILE]


def test_what_a_killed_writer_left_is_cleared() -> None:
    """It may have gigabytes."""
    file = write()
    (file.parent / ".state.safetensors.0a1b2c.tmp").write_bytes(b"half")
    keeper = kept()
    assert keeper.read() is not None
    assert [path.name for path in file.parent.iterdir()] == [FILE]
    keeper.release()


def test_no_folder_is_made_before_a_state_is_kept(project: Path) -> None:
    keeper = kept(how_often=5)
    assert keeper.read() is None
    assert not keeper.is_due()
    keeper.remove()
    keeper.release()
    assert list(project.iterdir()) == []


def test_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(states.time, "monotonic", lambda: clock[0])
    keeper = kept(how_often=2)
    due = []
    for _ in range(6):
        clock[0] += 50
        due.append(keeper.is_due())
        if due[-1]:
            keeper.write(state())
    assert due == [False, False, True, False, False, True]  # after 150 s, and 150 s later
    keeper.release()
    clock[0] += 1e9
    assert not kept(how_often=None).is_due()


def test_off_takes_no_state_either() -> None:
    write()
    assert kept(how_often=None).read() is None
    assert kept().read() is not None


def test_removed_when_the_training_is_over() -> None:
    keeper = kept()
    keeper.write(state())
    keeper.remove()
    keeper.release()
    assert not keeper.folder.exists()


def test_another_trainings_state_is_not_looked_at() -> None:
    write("one")
    assert kept("other").read() is None
    assert kept("one").read() is not None


def test_a_state_in_another_ones_place_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    file = write("one")
    moved = file.parent.with_name("other") / FILE
    moved.parent.mkdir()
    file.rename(moved)
    assert kept("other").read() is None
    assert "identity was one, is other" in caplog.text


def test_a_state_of_another_number_of_threads_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    """The last bits may depend on it."""
    before = torch.get_num_threads()
    write()
    try:
        torch.set_num_threads(before + 1)
        keeper = kept()
        assert keeper.read() is None
        keeper.release()
    finally:
        torch.set_num_threads(before)
    assert f"{before} thread(s), is " in caplog.text
    assert kept().read() is not None  # whoever runs it again as it was finds it


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_byte_is_seen(place: int, caplog: pytest.LogCaptureFixture) -> None:
    """In the header's length, in the header and in the tensors."""
    file = write()
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert kept().read() is None
    assert "is damaged" in caplog.text or "was" in caplog.text


@pytest.mark.parametrize("size", [0, 4, 200])
def test_part_of_a_file_is_no_state(size: int) -> None:
    file = write()
    file.write_bytes(file.read_bytes()[:size])
    assert kept().read() is None


HEADERS = ["[]", "3", '"x"', "{}", '{"of": []}', '{"of": {}}', '{"of": {"identity": 1e999}}', "[" * 9000, "{"]


@pytest.mark.parametrize("header", [*HEADERS, None])
def test_a_foreign_safetensors_file_is_no_state(header: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """Such as somebody's weights, or a state whose header was edited."""
    file = write()
    save_file({"a": torch.ones(2)}, file, None if header is None else {"state": header})
    assert kept().read() is None
    assert "is not used, the training begins again" in caplog.text


@pytest.mark.parametrize("edit", ["steps", "losses", "of"])
def test_an_edited_value_is_seen(edit: str, caplog: pytest.LogCaptureFixture) -> None:
    file = write()
    with safe_open(file, framework="pt") as kept_file:
        rest = json.loads(kept_file.metadata()["state"])
        tensors = {name: kept_file.get_tensor(name) for name in kept_file.keys()}  # noqa: SIM118
    rest[edit] = {"steps": 8, "losses": [float("nan")], "of": {**rest["of"], "more": 1}}[edit]
    save_file(tensors, file, {"state": json.dumps(rest)})
    assert kept().read() is None
    assert "it is damaged" in caplog.text


@pytest.mark.parametrize("target", ["/dev/zero", "nowhere", ".", FILE, "pipe"])
def test_what_is_no_file_is_no_state(target: str) -> None:
    file = write()
    file.unlink()
    os.mkfifo(file) if target == "pipe" else file.symlink_to(target)
    keeper = kept()
    assert keeper.read() is None
    keeper.write(state())  # and is replaced
    keeper.release()
    assert not file.is_symlink()
    assert kept().read() is not None


def hold(pipe: Connection, folder: Path) -> None:
    os.chdir(folder)
    keeper = kept()
    keeper.write(state(1))
    pipe.send("held")
    pipe.recv()


def test_two_processes_of_one_training_do_not_mix(project: Path) -> None:
    """As `dvc exp` may run in two copies of the project: the second neither takes nor writes a state."""
    ours, theirs = multiprocessing.Pipe()
    other = forked().Process(target=hold, args=(theirs, project))
    other.start()
    assert ours.recv() == "held"
    second = kept()
    assert second.read() is None
    second.write(state(2))
    second.remove()
    second.release()
    other.kill()
    other.join()
    found = kept().read()
    assert found is not None
    assert found.rest["steps"] == 1


def test_a_full_disk_is_told_and_nothing_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = write()
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "save_file", full)
    keeper = kept()
    keeper.write(state(9))
    keeper.release()
    assert "not kept" in caplog.text
    assert file.read_bytes() == before


def test_what_nobody_went_on_from_for_long_goes() -> None:
    old, new = write("old"), write("new")
    held = kept("held")
    held.write(state())
    long_ago = time.time() - 86400 * UNUSED_DAYS - 1
    for file in (old, held.folder / FILE):
        os.utime(file, (long_ago, long_ago))
    assert kept("none").read() is None
    assert not old.parent.exists()
    assert new.exists()
    assert (held.folder / FILE).exists()  # another process trains it
    held.release()


def test_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(states.EVERY, raising=False)
    assert minutes() == 5
    for text, expected in (("0", 0.0), ("2.5", 2.5), ("off", None)):
        monkeypatch.setenv(states.EVERY, text)
        assert minutes() == expected
    for text in ("-1", "nan", "inf", "often", ""):
        monkeypatch.setenv(states.EVERY, text)
        with pytest.raises(TrialError, match="KDCACHE_STATE_MINUTES must be a number of minutes"):
            minutes()
