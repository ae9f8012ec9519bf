"""QEMU's command line for each architecture of EC2's; tests/lab/test_vm.py runs it."""

from dataclasses import replace
from pathlib import Path

import pytest

from lab.machines import Disk, qemu
from lab.machines.programs import MissingProgram
from lab.machines.qemu import ARCHITECTURES, ARM, X86, Architecture, Hardware


def hardware(kind: Architecture, acceleration: str = "tcg") -> Hardware:
    return Hardware(
        name="i-1",
        architecture=kind,
        acceleration=acceleration,
        processors=1,
        memory_mib=512,
        identity="ec2",
        product="t4g.small",
        mac="02:00:00:00:00:01",
        hostname="ip-127-20-30-40.eu-west-1.compute.internal",
        nvme=True,
        disks=[Disk("vol-1", Path("/disk"), "/dev/sda1", True)],
        sockets=Path("/sockets"),
        services={8088: Path("/relays/8088")},
        uefi_variables=Path("/variables"),
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_machine_has_the_processor_and_firmware_of_its_architecture(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "path_of", lambda program: program)
    kind = ARCHITECTURES[name]
    words = qemu.command(hardware(kind), 3)
    assert kind.program in words
    assert words[words.index("-cpu") + 1] == kind.emulated
    assert any(f"readonly=on,file={kind.firmware}" in word for word in words)
    assert any("readonly=off,file=/variables" in word for word in words)
    accelerated = qemu.command(hardware(kind, "kvm"), 3)
    assert accelerated[accelerated.index("-cpu") + 1] == "host"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_machine_is_told_its_name_and_domain_and_reaches_sockets_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "path_of", lambda program: program)
    words = qemu.command(hardware(ARCHITECTURES[name]), 3)
    assert "--net" in words[: words.index("/bin/sh")]
    network = words[words.index("-netdev") + 1].split(",")
    assert {"hostname=ip-127-20-30-40", "domainname=eu-west-1.compute.internal"} < {*network}
    ways = [word.partition("=")[2] for word in network if "fwd=" in word]
    assert ways == [
        "tcp:127.0.0.22:22-:22",
        "tcp:169.254.169.254:80-cmd:socat -b 65536 - UNIX-CONNECT:/sockets/metadata",
        "tcp:169.254.169.253:53-cmd:socat -b 65536 - UNIX-CONNECT:/sockets/names-stream",
        "tcp:169.252.0.100:8088-cmd:socat -b 65536 - UNIX-CONNECT:/relays/8088",
    ]


def test_arm64_is_a_machine_of_its_own() -> None:
    assert ARCHITECTURES == {"x86_64": X86, "i386": X86, "arm64": ARM}


def test_firmware_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qemu, "path_of", lambda program: program)
    with pytest.raises(MissingProgram, match="apt install qemu-efi-aarch64"):
        qemu.require(replace(ARM, firmware=Path("/nowhere/code.fd")))
