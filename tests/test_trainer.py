"""Trainers: nothing joins a run that its config does not name."""

from __future__ import annotations

import pytest
from lightning_fabric.utilities import registry
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.connectors import callback_connector

from warmstart.trainer import Hardware


def test_callbacks_of_other_installed_packages_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Guest(Callback):
        pass

    def found(group: str) -> list[Callback]:
        return [Guest()]

    monkeypatch.setattr(registry, "_load_external_callbacks", found)
    monkeypatch.setattr(callback_connector, "_load_external_callbacks", found)
    own = Callback()
    made = Hardware(accelerator="cpu").trainer(steps=1, val_every=1, callbacks=[own])
    callbacks = made.callbacks  # type: ignore[attr-defined]
    assert own in callbacks
    assert not any(isinstance(callback, Guest) for callback in callbacks)
    # Other users of Lightning in this process get theirs.
    assert callback_connector._load_external_callbacks is found  # type: ignore[attr-defined]
