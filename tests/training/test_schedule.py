"""The learning rate by hand, and which parameters get which."""

from __future__ import annotations

import pytest
import torch

from cledet.config.loading import resolve
from cledet.config.train import TrainSettings as Train
from cledet.errors import UserError
from cledet.models.network import Architecture, build_network
from cledet.training.schedule import build_optimizer, check_milestones, lr_factor, set_lr


def settings(**given):
    return resolve(Train, given, environ={})


def test_the_papers_schedule():
    """90k iterations: warm-up over 500, a tenth at 67.5k and again at 75k (paper, section 3.1)."""
    paper = settings(lr_steps="67500,75000", warmup=500)
    factors = [lr_factor(paper, step, 90_000) for step in (0, 250, 500, 67_499, 67_500, 74_999, 75_000, 89_999)]
    assert factors == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.1, 0.01, 0.01])
    fractions = settings(lr_steps="0.75,0.83333334")
    assert [lr_factor(fractions, step, 90_000) for step in (67_500, 75_001)] == pytest.approx([0.1, 0.01])


def test_warmup_is_at_most_a_fifth_of_a_short_run():
    assert lr_factor(settings(), 19, 100) < 1
    assert lr_factor(settings(), 20, 100) == 1
    assert lr_factor(settings(warmup=0), 0, 100) == 1


def test_cosine_falls_from_one_to_a_hundredth():
    cosine = settings(schedule="cosine", warmup=0)
    assert lr_factor(cosine, 0, 100) == 1
    assert lr_factor(cosine, 50, 100) == pytest.approx(0.505)
    assert lr_factor(cosine, 100, 100) == pytest.approx(0.01)


@pytest.mark.parametrize("total", [10, 37, 100])
def test_onecycle_is_torchs(total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False)
    cycle = settings(schedule="onecycle")
    for step in range(total):
        assert lr_factor(cycle, step, total) == pytest.approx(torchs.get_last_lr()[0], rel=1e-12)
        if step < total - 1:
            optimizer.step()
            torchs.step()


def test_milestones_in_epochs():
    """Twelve epochs in 1,200 steps: the eighth and the eleventh end at 800 and 1,100."""
    epochs = settings(lr_steps="8e,11e", epochs=12, warmup=0)
    factors = [lr_factor(epochs, step, 1200) for step in (799, 800, 1099, 1100)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01])
    with pytest.raises(UserError, match="counts epochs, but the run's length is given by --iters"):
        settings(lr_steps="8e", iters=100)
    with pytest.raises(UserError, match="could not convert string to float: 'x'"):
        settings(lr_steps="xe")


def test_a_decay_at_or_beyond_the_end_is_refused():
    check_milestones(settings(lr_steps="0.5,999,1", iters=1000), 1000)  # 1 is the whole run: no decay
    check_milestones(settings(lr_steps="9000", schedule="cosine"), 1000)
    for given, at in (
        ({"lr_steps": "1000"}, "1000"),
        ({"lr_steps": "0.5,67500"}, "67500"),
        ({"lr_steps": "12e"}, "12e"),
    ):
        message = (
            rf"^--lr-steps {at} is not before the end of the run, which has 1000 steps \(give fractions of the run"
        )
        with pytest.raises(UserError, match=message):
            check_milestones(settings(**given), 1000)


def test_a_decay_beyond_the_end_is_a_warning_where_a_flag_shortens_a_recipe(tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("iters: 12000\nlr-steps: 9000\n")
    check_milestones(resolve(Train, recipe=recipe, environ={}), 12000)
    assert capsys.readouterr().err == ""
    for length in ({"iters": 1000}, {"epochs": 3}):
        check_milestones(resolve(Train, length, recipe=recipe, environ={}), 1000)
        said = " ".join(capsys.readouterr().err.split())
        assert said.startswith("warning: --lr-steps 9000 is not before the end of the run, which has 1000 steps: the")
    recipe.write_text("iters: 1000\nlr-steps: 9000\n")
    with pytest.raises(UserError, match="--lr-steps 9000 is not before the end"):
        check_milestones(resolve(Train, recipe=recipe, environ={}), 1000)


def test_groups_cover_every_trained_parameter_once_with_its_rate_and_decay():
    network = build_network(Architecture(backbone="r18", classes=2, fpn_channels=16, norm="batch"))
    network.backbone.freeze(2)
    optimizer = build_optimizer(network, settings(backbone_lr=0.1, weight_decay=0.5))
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    trained = [p for p in network.parameters() if p.requires_grad]
    assert len(grouped) == len(trained)
    assert {id(p) for p in grouped} == {id(p) for p in trained}
    set_lr(optimizer, 1.0)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(network.backbone.layer4[0].conv1.weight)] == (0.1, 0.5)
    assert rate[id(network.backbone.layer4[0].bn1.weight)] == (0.1, 0.0)
    assert rate[id(network.head.regression.predict.weight)] == (1.0, 0.5)
    assert rate[id(network.head.regression.predict.bias)] == (1.0, 0.0)
