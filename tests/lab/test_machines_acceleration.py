"""KVM is believed after a trial, and the trial is remembered."""

import json
from pathlib import Path

import pytest

from lab.image import Image
from lab.machines import acceleration

# The first to want the image may have to build it.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


def test_without_kvm_machines_are_emulated(
    tmp_path: Path, cloud_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "_KVM", tmp_path / "kvm")
    found = acceleration.find(cloud_image.kernel, tmp_path)
    assert (found.name, found.reason.partition(":")[0]) == ("tcg", "emulation")
    assert list(tmp_path.iterdir()) == []


def test_result_of_the_trial_is_kept_until_its_subject_changes(
    tmp_path: Path, cloud_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that hangs with KVM is given up sooner.
    monkeypatch.setattr(acceleration, "_SECONDS", 3)
    # There for this user; whether guests run with what this host has of it, QEMU finds out.
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(acceleration, "_KVM", tmp_path / "kvm")
    cache = tmp_path / "cache"
    found = acceleration.find(cloud_image.kernel, cache)
    assert found.name in ("kvm", "tcg")
    assert "kernel" in found.reason
    (kept,) = cache.glob("acceleration-*.json")
    told = json.loads(kept.read_text())
    assert told["found"] == {"name": found.name, "reason": found.reason}

    told["found"]["reason"] = "as it was found before"
    kept.write_text(json.dumps(told))
    assert acceleration.find(cloud_image.kernel, cache).reason == "as it was found before"
    for other in ({**told, "tried": {**told["tried"], "qemu": "another"}}, "damaged"):
        kept.write_text(json.dumps(other))
        assert acceleration.find(cloud_image.kernel, cache).name == found.name
        assert "as it was found before" not in kept.read_text()
