"""Training state read from checkpoints of this and of earlier versions."""

from __future__ import annotations

from cledet.training.train_state import TrainState


def test_keys_of_cledet_0_1_0_are_renamed():
    saved = {"step": 5, "best": 0.25, "best_epoch": 2, "judged": 3, "concluded": False, "bad_steps": 1, "model": {}}
    assert TrainState.from_saved(saved) == TrainState(
        step=5, best=0.25, best_epoch=2, last_eval_epoch=3, epoch_finished=False, bad_steps=1
    )


def test_saved_state_is_read_back():
    state = TrainState(step=7, best=0.5, best_epoch=1, last_eval_epoch=4, epoch_finished=False, bad_steps=2)
    assert TrainState.from_saved(vars(state)) == state


def test_missing_keys_have_their_defaults():
    assert TrainState.from_saved({"step": 4}) == TrainState(step=4)
