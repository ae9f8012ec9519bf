"""Diagnose why nobody could log in to a test instance, from what EC2 reports of it.

The diagnosis rests on the messages of firmware, boot loaders, kernel, systemd and cloud-init on the
serial console. Where none matches, the last console line is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedimg.ssh.client import Reached
from fedimg.untrusted.quoting import printable

#: How many characters of a console line are quoted.
_QUOTED = 160


@dataclass(frozen=True)
class Evidence:
    """The facts that a diagnosis is based on.

    `console` is the text of GetConsoleOutput, `status` the instance status of
    DescribeInstanceStatus (which tests the instance's network card over ARP), `reached` how far the
    SSH login got.
    """

    console: str
    status: str
    reached: Reached


@dataclass(frozen=True)
class _Sign:
    """The meaning of console lines that match a pattern."""

    meaning: str
    lines: re.Pattern[str]


def _sign(meaning: str, *patterns: str) -> _Sign:
    return _Sign(meaning, re.compile("|".join(patterns)))


# Messages of a kernel or its processes; earlier messages of a boot loader did not matter then.
_KERNEL = re.compile(
    r"Linux version \d|^\[ *\d+\.\d{6}\]|Kernel panic|systemd\[1\]:|^\[ *(OK|FAILED|!!!!!!) *\]|"
    r"cloud-init\[\d+\]|Welcome to (?!GRUB)|^(?!Last)\S+ login:"
)
# Kernel, systemd and cloud-init print after the prompt, also on its line.
_LOGIN = re.compile(r"^(?!Last)\S+ login:( |$)")
# Messages at the end of a boot, for consoles without a prompt.
_ENDED = re.compile(
    r"Reached target .*(multi-user|Multi-User|graphical|Graphical)|Cloud-init v\. .* finished at "
)

# A failed mount is the cause if the boot ended in emergency mode; others have nofail in fstab.
_MOUNT = re.compile(r"(Failed to mount|Dependency failed for) .*\.mount\b")
# A device is waited for by the initramfs, for the root file system, or later, for another one.
_DEVICE_WAIT = re.compile(r"Timed out waiting for device")
_OTHER_MOUNT = re.compile(rf"(?!.*sysroot){_MOUNT.pattern}")
_EMERGENCY = _sign(
    "it ended in emergency mode",
    r"You are in (emergency|rescue) mode",
    r"Entering emergency mode",
    r"Cannot open access to console, the root account is locked",
    r"Reached target .*(emergency\.target|Emergency Mode)",
)
#: The failures that end a boot, causes before their consequences.
_SYSTEM = (
    _sign(
        "the file system on its disk is damaged",
        r"EXT4-fs error",
        r"EXT4-fs \(.*(checksum|corrupt)",
        r"XFS \(.*(Corruption|corruption|Internal error|metadata I/O error)",
        r"BTRFS (error|critical|warning).*(csum|checksum|corrupt)",
        r"SQUASHFS error",
        r"I/O error, dev (?!fd|sr)",
        r"UNEXPECTED INCONSISTENCY",
        r"Structure needs cleaning",
    ),
    _sign("its kernel did not find the root file system", r"VFS: Unable to mount root fs"),
    _sign(
        "its kernel found no init that it can run",
        r"No working init found",
        r"Requested init \S+ failed",
    ),
    _sign("its kernel panicked", r"Kernel panic - not syncing"),
    _sign(
        "its initramfs did not find the root file system",
        r"dracut-initqueue.*(timeout|Could not boot)",
        r"ALERT! .* does not exist",
        r"Timed out waiting for device /?dev[/-]disk",
        r"Cannot open root device",
    ),
    _sign("its systemd gave up", r"^\[!!!!!!\]", r"systemd\[1\]: Freezing execution"),
    _EMERGENCY,
)
_LOADERS = (
    _sign(
        "PV-GRUB found no kernel to boot: check the image's menu.lst",
        r"grubdom>",
        r"xc_dom_\w+: .*",
        r"Error \d+: (File not found|Kernel must be loaded|Cannot mount|No such partition|"
        r"Filesystem type unknown|Invalid or unsupported executable|Selected item)",
    ),
    _sign(
        "its boot loader, GRUB, found nothing to boot",
        r"grub rescue>",
        r"^grub>",
        r"error: (\S+: )?(no such (partition|device)|unknown filesystem|disk `)",
        r"error: (\S+: )?file `.*' not found",
        r"error: (\S+: )?(you need to load the kernel first|invalid magic|symbol `)",
    ),
    _sign(
        "its firmware, UEFI, found nothing to boot: the image has no boot loader for UEFI; "
        "check ec2.amis.boot_mode",
        r"^(\x1b\S*)?Shell>",
        r"UEFI Interactive Shell",
        r"BdsDxe: (No bootable|failed to (load|start))",
    ),
    _sign(
        "its firmware found nothing to boot: the image has no boot loader for this boot mode; "
        "check ec2.amis.boot_mode",
        r"No bootable (device|option|medium)",
        r"[Nn]ot a bootable disk",
        r"Boot [Ff]ailed",
        r"(Missing|No) operating system|Operating [Ss]ystem not found",
    ),
)
_BOOT_SECTOR = _sign("", r"Booting from (Hard Disk|0000:7c00|DVD)")

_NO_NETWORK = _sign(
    "it booted without a network",
    r"Network is unreachable",
    r"No route to host",
    r"Failed to start .*(networkd|[Nn]etwork ?[Mm]anager|Wait for Network|[Ww]ait.[Oo]nline|"
    r"Raise network interfaces)",
    r"Timeout occurred while waiting for network connectivity",
)
# The line of the exception says more than "Traceback".
_CLOUD_INIT_TRACEBACK = _sign("cloud-init failed on it", r"cloud-init\[\d+\]: [\w.]*Error: ")
_CLOUD_INIT = _sign(
    "cloud-init failed on it",
    r"cloud-init\[\d+\]: .*(Traceback|\bERROR\b|\bCRITICAL\b)",
    r"Failed to start .*(cloud-init|Initial cloud-init|settings specified in cloud-config|"
    r"Execute cloud user/final scripts|Cloud-init)",
    r"(CRITICAL|WARNING)\]: Giving up on md",
    r"No (instance )?datasource found",
    r"Running module \S+ .*failed",
)
_SSHD = _sign(
    "its SSH server did not start",
    r"Failed to start .*(OpenSSH|OpenBSD Secure Shell)",
    # systemd shortens names to the width of the console.
    r"Failed to start sshd?\.",
    r"sshd\[\d+\]: (error: .*host ?key|fatal:)",
    r"sshd: no hostkeys available",
)
_CLOUD_INIT_AT_ALL = re.compile(r"cloud-init|ci-info")
# SELinux's denials; in permissive mode it denies nothing.
_DENIAL = re.compile(r"avc: +denied (?!.*permissive=1)")
# The last line of a kernel that restarts the machine, or powers it off to be switched on again.
_RESTART = re.compile(r"reboot: (Restarting system|Power down|machine restart)")
# What firmware, boot loader and kernel say once in each boot; a quiet kernel says nothing.
_ONCE = [
    re.compile(sign) for sign in (r"SeaBIOS \(version", r"Welcome to GRUB!", r"Linux version \d")
]
_WAITING = re.compile(r"(networkd|NetworkManager|Network\w*)-wait-online|Wait for Network")
# cloud-init's table of network devices: name, whether it is up, address.
_DEVICE = re.compile(r"ci-info: \| +(?P<name>\S+) +\| +(?P<up>True|False) +\| +(?P<address>\S+)")


def diagnose(evidence: Evidence) -> str:
    """Return why nobody could log in, as the second half of a sentence, quoting the console."""
    lines = [line for raw in evidence.console.splitlines() if (line := printable(raw).strip())]
    if not lines:
        return f"EC2 has no console output of it{_network_clause(evidence)}"
    if not any(_KERNEL.search(line) for line in lines):
        return _loader(lines)
    if any(map(_OTHER_MOUNT.search, lines)):
        causes = [line for line in lines if not _DEVICE_WAIT.search(line)]
    else:
        causes = lines
    for sign in _SYSTEM:
        if line := _first(sign, causes):
            mount = next(filter(_MOUNT.search, lines), line) if sign is _EMERGENCY else line
            return _diagnosis(sign.meaning, mount)
    return _service(lines, evidence)


def since_reboot(console: str) -> str:
    """Return what a console says of the boot after a reboot; empty if it says nothing of it.

    A kernel's last line names the restart. After one that EC2 forced, what begins each boot tells,
    when it is there again.
    """
    lines = console.splitlines()
    restarts = [number for number, line in enumerate(lines, 1) if _RESTART.search(line)]
    if restarts:
        return "\n".join(lines[restarts[-1] :])
    for sign in _ONCE:
        begins = [number for number, line in enumerate(lines) if sign.search(line)]
        if len(begins) > 1:
            return "\n".join(lines[begins[-1] :])
    return ""


def _loader(lines: Sequence[str]) -> str:
    """Return the diagnosis when no kernel has printed anything."""
    for sign in _LOADERS:
        if line := _first(sign, lines):
            return _diagnosis(sign.meaning, line)
    if _BOOT_SECTOR.lines.search(lines[-1]):
        return _diagnosis(
            "its firmware started the disk's boot sector, and no boot loader started: the image "
            "has a damaged one, or is made for UEFI alone; check ec2.amis.boot_mode",
            lines[-1],
        )
    return f"its console shows no kernel messages, and ends with {_quoted(lines[-1])}"


def _service(lines: Sequence[str], evidence: Evidence) -> str:
    """Return the diagnosis when a kernel and its init run."""
    denials = [line for line in lines if _DENIAL.search(line)]
    if not denials:
        return _service_failure(lines, evidence)
    return (
        f"SELinux denied {len(denials)} accesses, which is likely the cause: are the image's "
        f"files labelled correctly? (console: {_quoted(denials[0])}); "
        f"{_service_failure(lines, evidence)}"
    )


def _service_failure(lines: Sequence[str], evidence: Evidence) -> str:
    """Return what the console says of init and its services, leaving SELinux aside."""
    # A machine that answers TCP has a network, whatever the console says.
    signs = [_CLOUD_INIT_TRACEBACK, _CLOUD_INIT, _SSHD]
    if evidence.reached is Reached.NOTHING:
        if _WAITING.search(lines[-1]):
            return _diagnosis("it is still waiting for its network", lines[-1])
        if line := _line_without_address(lines):
            return _diagnosis(_NO_NETWORK.meaning, line)
        signs.insert(0, _NO_NETWORK)
    for sign in signs:
        if line := _first(sign, lines):
            return _diagnosis(sign.meaning, line)
    return _booted(lines, evidence)


def _booted(lines: Sequence[str], evidence: Evidence) -> str:
    """Return the diagnosis when no console line reports a failure."""
    if evidence.reached is Reached.HOST_KEY:
        if any(_CLOUD_INIT_AT_ALL.search(line) for line in lines):
            return "it booted, and cloud-init did not install the host key of this test"
        return (
            "it booted, and its console shows no sign of cloud-init, without which an image can be "
            "neither tested nor used in EC2: is cloud-init installed and enabled in the image?"
        )
    if evidence.reached is Reached.SERVER:
        return (
            "it booted, and cloud-init did not authorize the test's key for this user: is "
            "ec2.test_user the image's default user?"
        )
    if any(_LOGIN.search(line) for line in lines):
        return f"it booted to its login prompt{_network_clause(evidence)}"
    if ended := next((line for line in lines if _ENDED.search(line)), ""):
        return f"{_diagnosis('it booted', ended)}{_network_clause(evidence)}"
    return (
        f"its boot did not finish{_network_clause(evidence)}; its console ends with "
        f"{_quoted(lines[-1])}"
    )


def _line_without_address(lines: Iterable[str]) -> str:
    """Return a line of cloud-init's table of network devices when no device has an address."""
    devices = [(m, line) for line in lines if (m := _DEVICE.search(line))]
    if any(m["name"] != "lo" and m["up"] == "True" and m["address"] != "." for m, _ in devices):
        return ""
    return devices[-1][1] if devices else ""


def _network_clause(evidence: Evidence) -> str:
    """Return how the instance answered on the network, to be appended to a diagnosis."""
    match evidence.reached, evidence.status:
        case Reached.CLOSED, _:
            return ", and nothing listens on its SSH port"
        case Reached.PORT, _:
            return ", and what listens on its SSH port does not speak SSH"
        case Reached.NOTHING, "ok":
            return (
                ", and does not answer, though EC2's status check reaches its network card: check "
                "the image's firewall and ec2.network.allowed_source"
            )
        case Reached.NOTHING, "impaired":
            return ", and neither SSH nor EC2's status check reaches it: it has no network"
        case Reached.NOTHING, _:
            return ", and does not answer"
        case _:
            return ""


def _first(sign: _Sign, lines: Iterable[str]) -> str:
    return next((line for line in lines if sign.lines.search(line)), "")


def _diagnosis(meaning: str, line: str) -> str:
    return f"{meaning} (console: {_quoted(line)})"


def _quoted(line: str) -> str:
    return f'"{line if len(line) <= _QUOTED else f"{line[:_QUOTED]}…"}"'
