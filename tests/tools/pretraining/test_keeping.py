"""Checkpoints kept on the way: what one run was after so many tokens, also when it was interrupted and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from kdcache.study import load_study
from tests.tools.pretraining.samples import make_trainer, run, weights
from tools import pretrain as stage
from tools.pretraining import Trainer, loop
from tools.pretraining import run as pretraining_run

KEEP = ("--keep-at", "256", "100")  # steps 4 and 2 of 64 tokens; the run has 6
FOLDERS = ("bert-at-100", "bert-at-256", "bert")


def start(saved: Path, folder: Path, *options: str) -> None:
    work = ("--work-dir", str(folder / "work"), "--out", str(folder / "bert"))
    run(saved, "bert", *work, *(options or KEEP))


@pytest.fixture(scope="module")
def uninterrupted(saved, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    start(saved, folder)
    return folder


def without_time(folder: Path) -> dict[str, bytes]:
    """A checkpoint's files; of the card not the time, which no run repeats."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    card = found["README.md"].splitlines()
    return found | {"README.md": b"\n".join(line for line in card if not line.startswith(b"| time |"))}


def assert_going_on_leaves_the_same(
    expected: Path, saved: Path, folder: Path, interrupting: pytest.MonkeyPatch
) -> None:
    """A run is interrupted by what is patched; without it, it goes on to the very files of `expected`."""
    with pytest.raises(KeyboardInterrupt):
        start(saved, folder)
    interrupting.undo()
    start(saved, folder)
    for name in FOLDERS:
        assert without_time(folder / name) == without_time(expected / name), name


@pytest.mark.parametrize(("folder", "steps"), [("bert-at-100", 2), ("bert-at-256", 4), ("bert", 6)])
def test_each_has_the_weights_of_its_step(folder, steps, uninterrupted, tokenizers):
    trainer = make_trainer("bert", tokenizers)
    for _ in range(steps):
        trainer.step()
    loaded = dict(AutoModelForMaskedLM.from_pretrained(uninterrupted / folder).named_parameters())
    for name, expected in weights(trainer).items():
        assert torch.equal(loaded[name], expected.half().float()), name


def test_a_kept_checkpoint_is_whole_and_its_card_says_what_it_is(uninterrupted, tokenizers):
    kept, final = (uninterrupted / name for name in ("bert-at-100", "bert"))
    assert {path.name for path in kept.iterdir()} == {path.name for path in final.iterdir()}
    card = (kept / "README.md").read_text()
    trainer = make_trainer("bert", tokenizers)
    trainer.step(), trainer.step()
    assert card.startswith("# bert-at-100\n")
    assert "| tokens seen | 128 (" in card
    assert "| steps | 2 of 4 x 16 tokens" in card
    assert f"| held-out loss | {trainer.evaluate():.3f} nats" in card
    # 22% of 6 steps is one: the last
    assert (
        "| part of | a run of 6 steps (384 tokens) that went on; its learning rate falls from step 5 on |"
        in card
    )
    assert card.rstrip().endswith("--tokens 384 --keep-at 256 100\n```")
    assert "| part of |" not in (final / "README.md").read_text()


@pytest.mark.parametrize("saving", ["state saved where it keeps", "state saved after every step"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_run_interrupted_at_any_step_leaves_the_same_files(
    step, saving, saved, uninterrupted, tmp_path, monkeypatch
):
    if saving == "state saved after every step":
        monkeypatch.setattr(loop._Timer, "due", lambda self: 1.0)

    def interrupted(trainer: Trainer, at: int) -> torch.Tensor:
        if at == step:
            raise KeyboardInterrupt
        return loss(trainer, at)

    loss = Trainer.loss
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "loss", interrupted)
        assert_going_on_leaves_the_same(uninterrupted, saved, tmp_path, patch)


@pytest.mark.parametrize("folder", FOLDERS)
def test_so_does_one_interrupted_while_it_saves(folder, saved, uninterrupted, tmp_path, monkeypatch):
    def interrupted(model, tokenizer, out_dir):
        save(model, tokenizer, out_dir)
        if out_dir.name == folder:
            (out_dir / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    save = pretraining_run.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(pretraining_run, "save_checkpoint", interrupted)
        assert_going_on_leaves_the_same(uninterrupted, saved, tmp_path, patch)


def test_two_amounts_within_one_step_are_both_kept(saved, tmp_path):
    start(saved, tmp_path, "--keep-at", "65", "128")
    one, other = (without_time(tmp_path / f"bert-at-{tokens}") for tokens in (65, 128))
    assert one["model.safetensors"] == other["model.safetensors"]


def test_the_study_names_what_its_command_makes():
    path = Path(__file__).parents[3] / "studies/pretraining-amount.yaml"
    _, _, header = path.read_text().partition("#   python -m tools.pretrain ")
    options = stage._parse(header.partition("\n# The last")[0].replace("\n#", " ").split())
    made = [str(pretraining_run.kept_folder(options.out, tokens)) for tokens in options.keep_at]
    students = load_study(path).students.values()
    assert [one.checkpoint for one in students if "amount" in one.checkpoint] == made


# --- errors -----------------------------------------------------------------------------


def refusal(capsys, saved: Path, folder: Path, *options: str) -> str:
    with pytest.raises(SystemExit, match="1"):
        start(saved, folder, *options)
    return capsys.readouterr().err


@pytest.mark.parametrize("tokens", ["0", "-64", "321", "384", "1000"])  # 321 needs the sixth step
def test_an_amount_that_is_not_on_the_way_is_refused(tokens, saved, tmp_path, capsys):
    message = refusal(capsys, saved, tmp_path, "--keep-at", "64", tokens)
    assert f"the run reaches before its end (384 tokens, 64 a step), found {int(tokens):,};" in message
    assert not (tmp_path / "bert-at-64").exists()


def test_what_a_run_has_passed_cannot_be_kept_any_more(saved, tmp_path, capsys):
    start(saved, tmp_path, "--keep-at", "256")
    longer = ("--tokens", "640", "--keep-at", "100", "256", "500")
    message = refusal(capsys, saved, tmp_path, *longer)
    assert (
        "bert-at-100: is not what this run was after 2 steps, and the run is past it, at step 6." in message
    )
    start(saved, tmp_path, "--tokens", "640", "--keep-at", "256", "500")
    assert "| tokens seen | 512 (" in (tmp_path / "bert-at-500" / "README.md").read_text()


def test_another_runs_checkpoint_is_not_taken_for_this_runs(saved, tmp_path, capsys):
    """It has the right name, as an earlier run left it there."""
    start(saved, tmp_path, "--keep-at", "128")
    shutil.rmtree(tmp_path / "work")
    start(saved, tmp_path, "--tokens", "320")
    longer = ("--tokens", "640", "--keep-at", "128")
    assert "bert-at-128: is not what this run was after 2 steps" in refusal(capsys, saved, tmp_path, *longer)
