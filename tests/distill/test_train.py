"""The training loop: it learns, it goes on after an interruption, and gold is laid out right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.losses.response import NO_LABEL
from distill.networks.encoder import Encoder, EncoderShape
from distill.recipe import LossTerm, Training
from distill.train import Epoch, TrainingSet, _batches, _pace, gold_of, train
from gateway.contract.encoding import pad
from gateway.contract.manifest import Head, HeadKind, Task

TASK = Task(
    name="toy",
    heads=(
        Head(name="word", kind=HeadKind.CHOICE, labels=("five", "six")),
        Head(name="flags", kind=HeadKind.FLAGS, labels=("seven",)),
    ),
)
SHAPE = EncoderShape(
    vocabulary=10, hidden=16, layers=1, attention_heads=2, feed_forward=32, positions=8, outputs=3
)
PLAN = Training(
    epochs=3,
    batch=8,
    learning_rate=5e-3,
    head_learning_rate=2e-2,
    losses=(LossTerm(name="cross_entropy"),),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fresh(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(SHAPE)


def toy(rows: int = 96) -> TrainingSet:
    """A row holds a 5 or a 6, which is its choice, and maybe a 7, which is its flag."""
    draw = np.random.default_rng(0)
    texts, words, flags = [], [], []
    for _ in range(rows):
        word, seven = int(draw.integers(2)), bool(draw.integers(2))
        text = [1, 5 + word, *([7] if seven else []), *[2] * int(draw.integers(4))]
        texts.append([int(each) for each in draw.permutation(text)])
        words.append(word)
        flags.append([float(seven)])
    return TrainingSet(TASK, texts, (np.array(words), np.array(flags, np.float32)))


def learn(
    module: Encoder,
    data: TrainingSet,
    folder: Path,
    *,
    plan: Training = PLAN,
    stop: int | None = None,
) -> list[Epoch]:
    """Train; with `stop` the process is "killed" once so many texts are done."""

    def progress(done: int, total: int) -> None:
        assert 0 < done <= total == plan.epochs * len(data.rows)
        if stop is not None and done > stop:
            raise KeyboardInterrupt

    return train(module, data, plan, seed=1, checkpoints=folder, progress=progress)


def logits_of(module: Encoder, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    ids, mask = (torch.from_numpy(part) for part in pad(rows))
    with torch.no_grad():
        logits: Tensor = module(ids, mask)[0]
    return logits.numpy()


def same(one: Encoder, other: Encoder) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_a_separable_task_is_learnt(tmp_path: Path) -> None:
    data, module = toy(), fresh()
    history = learn(module, data, tmp_path, plan=PLAN.model_copy(update={"epochs": 8}))
    logits = logits_of(module, data.rows)
    assert (logits[:, :2].argmax(axis=1) == data.gold[0]).mean() > 0.95
    assert ((logits[:, 2] > 0) == (data.gold[1][:, 0] > 0.5)).mean() > 0.95
    assert [epoch.number for epoch in history] == list(range(8))
    assert history[-1].loss < 0.3 * history[0].loss
    assert not module.training


def test_a_teacher_can_be_imitated_without_gold(tmp_path: Path) -> None:
    data = toy()
    words, flags = data.gold
    teacher = np.stack(
        [4.0 - 8.0 * words, 8.0 * words - 4.0, 8.0 * flags[:, 0] - 4.0], axis=1
    ).astype(np.float32)
    unlabelled = (np.full(96, NO_LABEL), np.full((96, 1), NO_LABEL, np.float32))
    plan = PLAN.model_copy(
        update={
            "epochs": 8,
            "losses": (LossTerm(name="kl"), LossTerm(name="logit_mse", weight=0.3)),
        }
    )
    module = fresh()
    learn(module, TrainingSet(TASK, data.rows, unlabelled, teacher), tmp_path, plan=plan)
    logits = logits_of(module, data.rows)
    assert (logits[:, :2].argmax(axis=1) == words).mean() > 0.95
    assert ((logits[:, 2] > 0) == (flags[:, 0] > 0.5)).mean() > 0.95


@pytest.mark.parametrize("stop", [96 + 20, 96, 192 + 90])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    data = toy()
    whole = fresh()
    history = learn(whole, data, tmp_path / "whole")
    killed = fresh()
    with pytest.raises(KeyboardInterrupt):
        learn(killed, data, tmp_path / "killed", stop=stop)
    resumed = fresh(seed=99)  # a new process: its first weights are read from the checkpoint
    assert learn(resumed, data, tmp_path / "killed") == history
    assert same(resumed, whole)


def test_a_training_killed_in_its_first_epoch_begins_anew(tmp_path: Path) -> None:
    data, whole, again = toy(), fresh(), fresh()
    learn(whole, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learn(fresh(), data, tmp_path / "killed", stop=20)
    assert learn(again, data, tmp_path / "killed")
    assert same(again, whole)


def test_a_finished_training_is_read_and_not_done_again(tmp_path: Path) -> None:
    data, first, second = toy(), fresh(), fresh(seed=5)
    history = learn(first, data, tmp_path)
    assert learn(second, data, tmp_path, stop=0) == history  # any step would have stopped it
    assert same(first, second)


def test_a_process_killed_between_weights_and_state_goes_on_from_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, whole = toy(), fresh()
    learn(whole, data, tmp_path / "whole")
    rename = Path.rename

    def dies(path: Path, target: Path) -> Path:
        if path.name == "next.state" and (path.parent / "state").exists():
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        learn(fresh(), data, tmp_path / "killed")
    monkeypatch.undo()
    resumed = fresh(seed=9)
    learn(resumed, data, tmp_path / "killed")
    assert same(resumed, whole)


def test_only_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    learn(fresh(), toy(), tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["epoch-3.safetensors", "state"]


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    data, one, other = toy(), fresh(), fresh()
    plan = PLAN.model_copy(update={"epochs": 1})
    for seed, module in enumerate((one, other)):
        train(
            module,
            data,
            plan,
            seed=seed,
            checkpoints=tmp_path / str(seed),
            progress=lambda *_: None,
        )
    assert not same(one, other)


def test_the_heads_learn_at_their_own_rate(tmp_path: Path) -> None:
    """With a rate of next to nothing for the body, only the heads move."""
    before, module = fresh(), fresh()
    plan = PLAN.model_copy(update={"learning_rate": 1e-12, "head_learning_rate": 1e-2})
    learn(module, toy(), tmp_path, plan=plan)
    moved = {
        key.partition(".")[0]
        for key, value in module.state_dict().items()
        if not torch.allclose(value, before.state_dict()[key], atol=1e-6)
    }
    assert moved == {"heads"}


def test_progress_ends_with_all_texts(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    train(
        fresh(),
        toy(20),
        PLAN,
        seed=0,
        checkpoints=tmp_path,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[0] == (8, 60)
    assert told[-1] == (60, 60)
    assert [done for done, _ in told] == [8, 16, 20, 28, 36, 40, 48, 56, 60]


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    assert _pace(0.0) == pytest.approx(0.0, abs=1e-6)
    assert _pace(0.03) == pytest.approx(0.5 * 0.97, abs=1e-6)
    assert _pace(0.06) == pytest.approx(0.94, abs=1e-6)
    assert _pace(0.5) == pytest.approx(0.5)
    assert _pace(1.0) == 0.0


def test_batches_hold_every_row_once_and_texts_of_like_length() -> None:
    draw = np.random.default_rng(0)
    rows = [[1] * int(length) for length in draw.integers(1, 60, 403)]
    batches = _batches(rows, 8, np.random.default_rng(1))
    assert len(batches) == math.ceil(403 / 8)
    assert sorted(row for batch in batches for row in batch) == list(range(403))
    spread = [max(len(rows[row]) for row in b) - min(len(rows[row]) for row in b) for b in batches]
    assert np.mean(spread) < 6  # shuffled batches of eight would spread over about 46
    again = _batches(rows, 8, np.random.default_rng(1))
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


def test_gold_labels_become_indices_and_marks() -> None:
    task = Task(
        name="t",
        heads=(
            Head(name="intent", kind=HeadKind.CHOICE, labels=("a", "b", "c")),
            Head(name="flags", kind=HeadKind.FLAGS, labels=("x", "y")),
        ),
    )
    intent, flags = gold_of(
        task,
        [
            {"intent": "c", "flags": ("y",)},
            {"intent": "a", "flags": ()},
            {"flags": ("y", "x")},
            {"intent": "b"},
            {},
        ],
    )
    assert intent.tolist() == [2, 0, NO_LABEL, 1, NO_LABEL]
    assert intent.dtype == np.dtype(np.int64)
    unknown = [NO_LABEL, NO_LABEL]
    assert flags.tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], unknown, unknown]
    assert flags.dtype == np.dtype(np.float32)


def test_gold_of_no_rows_has_the_right_shapes() -> None:
    words, flags = gold_of(TASK, [])
    assert words.shape == (0,)
    assert flags.shape == (0, 1)


@pytest.mark.parametrize("label", [{"word": "nine"}, {"flags": ("eight",)}])
def test_a_label_that_the_task_lacks_is_never_taken_for_another(
    label: dict[str, str | tuple[str, ...]],
) -> None:
    with pytest.raises(KeyError):
        gold_of(TASK, [label])
