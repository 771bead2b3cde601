"""The model card of a detector."""

from __future__ import annotations

from dataclasses import replace

import yaml

from cledet.config.train import TrainSettings
from cledet.export.model_card import command, model_card


def test_the_card_states_metrics_data_command_and_licence(small):
    settings = TrainSettings(data="/home/me/photos/cats.yaml", backbone="r18", ablation="dc", epochs=3)
    model = replace(
        small(7), data="/home/me/photos/cats.yaml", metrics={"AP": 0.25, "AP50": 0.0, "per_class": {}},
        best_conf=0.0581, classes=("cat|fish", "<b>\ndog"), settings=settings.model_dump(mode="json"),
        components=("dc",),
    )  # fmt: skip
    card = model_card(model, "me/cats", "apache-2.0")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["pipeline_tag"] == "object-detection"
    (result,) = metadata["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"AP": 0.25, "AP50": 0.0}
    assert result["dataset"]["name"] == "cats.yaml"
    lines = card.splitlines()
    assert "| AP | 0.2500 |" in lines
    assert "| confidence of best F1 | 0.0581 |" in lines
    assert "| optimizer steps | 7 |" in lines
    assert "cledet train --data cats.yaml --backbone r18 --ablation dc --epochs 3" in lines
    assert r"cat\|fish, \<b\> dog" in lines
    assert "/home/me" not in card


def test_a_converted_detector_has_a_card_without_metrics(small):
    card = model_card(small(0), "me/coco", "unknown")
    assert "None were measured." in card
    assert "The weights are of another project." in card
    assert "model-index" not in card


def test_the_command_leaves_out_the_machines_settings():
    settings = TrainSettings(data="shapes", device="cpu", workers=0, compile=True, scale_jitter=(0.5, 2), project="x")
    assert command(settings.model_dump(mode="json")) == (
        "cledet train --data shapes --scale-jitter 0.5,2.0 --compile on"
    )
    assert command({"data": "a b.yaml", "of_tomorrow": 3}) == "cledet train --data 'a b.yaml'"


def test_the_command_names_class_weights_and_a_time_budget_without_epochs():
    settings = TrainSettings(data="shapes", class_weights={"disc": 2.5, "red ring": 1}, hours=0.5)
    assert command(settings.model_dump(mode="json")) == (
        "cledet train --data shapes --class-weights 'disc=2.5,red ring=1' --hours 0.5"
    )
