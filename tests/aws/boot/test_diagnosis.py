"""Test diagnoses with real, shortened console outputs of the lab and of EC2 instances."""

import pytest

from fedimg.aws.boot.diagnosis import Evidence, diagnose, since_reboot
from fedimg.ssh.client import Reached

SEABIOS = """\
\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r
Machine UUID ec234972-e84a-5046-8fbc-f0d0d5b6ebe2\r
Booting from Hard Disk...\r
"""
GRUB = f"{SEABIOS}GRUB loading...\r\n\x1b[0;30;47mWelcome to GRUB!\r\n\x1b[0m\x1b[2J\x1b[01;01H"
PANIC = """\
[    5.417601] Kernel panic - not syncing: No working init found.  Try passing init= option\r
[    5.418394] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0-56-cloud-amd64 #1\r
[    5.429664] ---[ end Kernel panic - not syncing: No working init found. ]---\r
"""
NO_ROOT = """\
[    1.532102] VFS: Cannot open root device "PARTUUID=12" or unknown-block(0,0): error -6
[    1.540301] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
"""
DAMAGED = """\
[    5.659598] EXT4-fs error (device nvme0n1p1): ext4_lookup:1860: inode #5323: comm swapper/0: iget
[    5.668156] Starting init: /sbin/init exists but couldn't execute it (error -117)
/bin/sh: 0: can't access tty; job control turned off
#
"""
XFS = """\
[    2.101001] XFS (nvme0n1p4): Metadata corruption detected at xfs_agi_verify+0x1/0x170 [xfs]
[    2.110000] XFS (nvme0n1p4): Failed to read root inode 0x80, error 117
"""
DRACUT = """\
[  191.331201] dracut-initqueue[341]: Warning: dracut-initqueue: timeout, still waiting for:
[  191.332218] dracut-initqueue[341]: Warning: Could not boot.
         Starting Dracut Emergency Shell...
Generating "/run/initramfs/rdsosreport.txt"
Entering emergency mode. Exit the shell to continue.
"""
EMERGENCY = """\
[\x1b[0;1;31mFAILED\x1b[0m] Failed to mount \x1b[0;1;39mboot.mount\x1b[0m - /boot.
You are in emergency mode. After logging in, type "journalctl -xb" to view
Cannot open access to console, the root account is locked.
"""
SYSTEMD = "[\x1b[0;1;31m!!!!!!\x1b[0m] Failed to load SELinux policy, freezing.\n"
NETWORK_WAIT = """\
[\x1b[0;32m  OK  \x1b[0m] Finished \x1b[0;1;39mssh.service\x1b[0m - SSH.\r
[\x1b[0;31m*\x1b[0m] Job systemd-networkd-wait-online.se\u2026tart running (2min 13s / no limit)\r
"""
NO_DEVICE = """\
[   71.12] cloud-init[432]: ci-info: +++++++++++++++++Net device info++++++++++++++++++\r
[   71.12] cloud-init[432]: ci-info: | Device |   Up  |  Address  |    Mask   | Scope | MAC |
[   71.12] cloud-init[432]: ci-info: |  eth0  | False |     .     |     .     |   .   | 02: |
[   71.12] cloud-init[432]: ci-info: |   lo   |  True | 127.0.0.1 | 255.0.0.0 |  host |  .  |

ip-10-0-0-7 login: \r
"""
WITH_DEVICE = NO_DEVICE.replace("False |     .    ", "True | 172.31.3.9")
UNREACHABLE = """\
[   31.01] cloud-init[433]: 2026-11-23 url_helper.py[WARNING]: Calling \
'http://169.254.169.254/2009-04-04/meta-data/instance-id' failed [1/120s]: request error \
[HTTPConnectionPool: Max retries exceeded (Caused by [Errno 101] Network is unreachable)]
fedora login: """
TRACEBACK = """\
[  134.383506] cloud-init[174]: Traceback (most recent call last):\r
[  135.551907] cloud-init[174]:                 ^^^^^^^^^^^^^^\r
[  135.552938] cloud-init[174]: AttributeError: module 'yaml' has no attribute 'YAMLError'\r
[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mcloud-init.servi\u2026 service.\r
[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mssh.servic\u2026[0m - Secure Shell server.\r

Debian GNU/Linux 12 localhost ttyS0\r

localhost login: \r
"""
SSHD = """\
[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mssh.servic\u2026[0m - Secure Shell server.\r
See 'systemctl status ssh.service' for details.\r

ip-127-210-163-71 login: \r
"""
FEDORA_SSHD = """\
[FAILED] Failed to start OpenSSH server daemon.
fedora login: """
#: As Fedora's kernel prints it.
DENIED = """\
[   12.345678] audit: type=1400 audit(1700000000.123:45): avc:  denied  { read } for  pid=512 \
comm="sshd" name="ssh_host_ed25519_key" dev="vda4" ino=1234 tcontext=unlabeled_t permissive=0
[   12.445678] audit: type=1400 audit(1700000000.223:46): avc:  denied  { search } for  pid=513 \
comm="cloud-init" name="cloud" dev="vda4" ino=1235 tcontext=unlabeled_t permissive=0
"""
PERMITTED = DENIED.replace("permissive=0", "permissive=1")
#: As Debian's systemd 252 prints it where the file system of /boot did not come.
NO_BOOT = """\
[ \x1b[0;1;31mTIME\x1b[0m ] Timed out waiting for device \x1b[0;1;\u2026c0836-9870-5eba.\r
[\x1b[0;1;38;5;185mDEPEND\x1b[0m] Dependency failed for \x1b[0;1;39mboot.mount\x1b[0m - /boot.\r
[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39memergency.service\x1b[0m - Emergency Shell.\r
[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39memergency.target\x1b[0m - Emergency Mode.\r
[\x1b[0;32m  OK  \x1b[0m] Finished \x1b[0;1;39msystemd-sysctl.service\x1b[0m - Apply Kernel.\r
"""
#: As systemd prints it in the kernel's log, where a file system other than root's did not come.
NO_SRV = """\
[   27.865288] systemd[1]: Timed out waiting for device dev-disk-by\\x2dlabel-none.device.
[   27.870112] systemd[1]: Dependency failed for srv.mount - /srv.
[   27.871204] systemd[1]: Dependency failed for local-fs.target - Local File Systems.
You are in emergency mode. After logging in, type "journalctl -xb" to view
"""
#: The same of dracut's systemd, which waits for the root file system.
NO_ROOT = """\
[   97.865288] systemd[1]: Timed out waiting for device /dev/disk/by-uuid/6ad2.
[   97.870112] systemd[1]: Dependency failed for sysroot.mount - /sysroot.
Entering emergency mode. Exit the shell to continue.
"""
LOGIN = "[  OK  ] Reached target multi-user.target.\n\nip-10-0-0-7 login: "
#: cloud-init 24.3 and later write behind the prompt, and so does a kernel that finds a device late.
WRITTEN_BEHIND = "\nfedora login: [   41.250000] cloud-init[712]: Cloud-init v. 24.4 running\n"
KERNEL_BEHIND = "\nip-10-0-0-7 login: [   52.101000] nvme nvme1: 2/0/0 default/read/poll queues\n"
TARGET_ALONE = "[  OK  ] Reached target multi-user.target - Multi-User System.\n"
FINISHED_ALONE = (
    "[   41.3] cloud-init[712]: Cloud-init v. 24.4 finished at Sat, 28 Nov 2026 10:00:00 +0000.\n"
)
CLOUD_INIT_RAN = f"[   31.2] cloud-init[700]: Cloud-init v. 24.4 running 'init'\n{LOGIN}"
PV_GRUB = (
    "Xen Minimal OS!\nPV-GRUB: GRUB 0.97\n\n    [ Minimal BASH-like line editing ]\n\ngrubdom> "
)
PV_NO_LOADER = "xc_dom_find_loader: no loader found\n"
RESCUE = f"{GRUB}error: no such device: 5f0a4f4c.\r\nEntering rescue mode...\r\ngrub rescue> "
SHELL = "BdsDxe: loading Boot0001\n\x1b[2JUEFI Interactive Shell v2.2\nMapping table\nShell> "
UEFI = "UEFI Interactive Shell v2.2\nBdsDxe: No bootable option or device was found.\n"


@pytest.mark.parametrize(
    ("console", "reached", "words"),
    [
        (f"{SEABIOS}Boot failed: not a bootable disk\r\n", Reached.NOTHING, "no boot loader"),
        (f"{SEABIOS}\r\nNo bootable device.\r\n", Reached.NOTHING, "no boot loader"),
        (UEFI, Reached.NOTHING, "no boot loader for UEFI; check ec2.amis.boot_mode"),
        (SHELL, Reached.NOTHING, "no boot loader for UEFI; check ec2.amis.boot_mode"),
        (SEABIOS, Reached.NOTHING, "no boot loader started"),
        (SEABIOS, Reached.NOTHING, "made for UEFI alone; check ec2.amis.boot_mode"),
        (RESCUE, Reached.NOTHING, "GRUB, found nothing to boot"),
        (PV_GRUB, Reached.NOTHING, "menu.lst"),
        (PV_NO_LOADER, Reached.NOTHING, "menu.lst"),
        (GRUB + PANIC, Reached.NOTHING, "found no init that it can run"),
        (GRUB + NO_ROOT, Reached.NOTHING, "did not find the root file system"),
        ("[    3.1] Kernel panic - not syncing: Fatal exception\n", Reached.NOTHING, "panicked"),
        (GRUB + DAMAGED, Reached.NOTHING, "damaged"),
        (GRUB + XFS, Reached.NOTHING, "damaged"),
        (DRACUT, Reached.NOTHING, "initramfs did not find the root file system"),
        (EMERGENCY, Reached.NOTHING, "emergency mode"),
        (NO_BOOT, Reached.NOTHING, "it ended in emergency mode"),
        (NO_BOOT, Reached.NOTHING, "Dependency failed for boot.mount - /boot."),
        (NO_SRV, Reached.NOTHING, "ended in emergency mode"),
        (NO_SRV, Reached.NOTHING, "Dependency failed for srv.mount - /srv."),
        (NO_ROOT, Reached.NOTHING, "its initramfs did not find the root file system"),
        (SYSTEMD, Reached.NOTHING, "systemd gave up"),
        (NETWORK_WAIT, Reached.NOTHING, "waiting for its network"),
        (NO_DEVICE, Reached.NOTHING, "without a network"),
        (UNREACHABLE, Reached.NOTHING, "without a network"),
        (TRACEBACK, Reached.CLOSED, 'cloud-init failed on it (console: "[  135.552938]'),
        (SSHD, Reached.CLOSED, "SSH server did not start"),
        (FEDORA_SSHD, Reached.CLOSED, "SSH server did not start"),
        (LOGIN, Reached.CLOSED, "nothing listens on its SSH port"),
        (LOGIN, Reached.PORT, "does not speak SSH"),
        (LOGIN, Reached.HOST_KEY, "its console shows no sign of cloud-init"),
        (CLOUD_INIT_RAN, Reached.HOST_KEY, "cloud-init did not install the host key"),
        (WRITTEN_BEHIND, Reached.CLOSED, "booted to its login prompt, and nothing listens"),
        (KERNEL_BEHIND, Reached.NOTHING, "booted to its login prompt, and does not answer"),
        (TARGET_ALONE, Reached.CLOSED, "it booted (console: "),
        (FINISHED_ALONE, Reached.PORT, "does not speak SSH"),
        (DENIED + LOGIN, Reached.HOST_KEY, "SELinux denied 2 accesses, which is likely the cause"),
        (DENIED + FEDORA_SSHD, Reached.CLOSED, 'comm="sshd" name="ssh_host_ed25519_key"'),
        (DENIED + FEDORA_SSHD, Reached.CLOSED, "; its SSH server did not start"),
        (LOGIN, Reached.SERVER, "cloud-init did not authorize the test's key"),
        (LOGIN, Reached.NOTHING, "booted to its login prompt, and does not answer"),
    ],
)
def test_console_and_login_progress_give_the_diagnosis(
    console: str, reached: Reached, words: str
) -> None:
    assert words in diagnose(Evidence(console, "", reached))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (f"[   40.1] reboot: Restarting system\n{GRUB}{PANIC}", "No working init found"),
        (
            "[   40.1] reboot: Restarting system\nLinux version 6.1\n"
            "You are in emergency mode. After logging in, type journalctl\n",
            "it ended in emergency mode",
        ),
        ("[   40.1] reboot: Restarting system\nShell>\n", "no boot loader for UEFI"),
        # As a virtual machine of the lab did, with a kernel that is quiet.
        (
            f"[  369.1] reboot: Power down\n{GRUB}Welcome to Debian GNU/Linux 12!\n"
            "You are in emergency mode. After logging in, type journalctl\n",
            "it ended in emergency mode",
        ),
        # EC2 forced it.
        (f"{GRUB}You are in emergency mode. After logging in\n", "it ended in emergency mode"),
        ("Linux version 6.1\nKernel panic - not syncing: VFS\n", "its kernel panicked"),
    ],
)
def test_boot_after_a_reboot_is_diagnosed_by_itself(second: str, words: str) -> None:
    console = since_reboot(f"{GRUB}Linux version 6.1\n{LOGIN}{second}")
    assert words in diagnose(Evidence(console, "", Reached.NOTHING))


def test_console_of_the_first_boot_alone_says_nothing_of_the_second() -> None:
    assert since_reboot(f"Linux version 6.1\n{LOGIN}") == ""


def test_diagnosis_quotes_its_evidence_without_control_characters() -> None:
    said = diagnose(Evidence(GRUB + PANIC, "impaired", Reached.NOTHING))
    assert "Kernel panic - not syncing: No working init found." in said
    assert said.isprintable()
    assert len(diagnose(Evidence(f"{'x' * 5000}\n", "", Reached.NOTHING))) < 300


def test_unknown_console_is_quoted_without_a_guess() -> None:
    said = diagnose(Evidence(f"{GRUB}Booting Debian\r\n", "initializing", Reached.NOTHING))
    assert said == 'its console shows no kernel messages, and ends with "Booting Debian"'
    assert "ends with" in diagnose(Evidence("[  OK  ] Started x.\n", "", Reached.NOTHING))
    assert diagnose(Evidence("", "", Reached.NOTHING)) == (
        "EC2 has no console output of it, and does not answer"
    )


def test_boot_loader_messages_before_a_kernel_are_ignored() -> None:
    console = f"error: no such device: x.\n{LOGIN}"
    assert "login prompt" in diagnose(Evidence(console, "", Reached.NOTHING))


def test_denials_in_permissive_mode_are_ignored() -> None:
    assert "SELinux" not in diagnose(Evidence(PERMITTED + LOGIN, "", Reached.HOST_KEY))


def test_line_about_the_last_login_is_not_taken_for_a_prompt() -> None:
    said = diagnose(Evidence("[  OK  ] Started x.\nLast login: yesterday\n", "", Reached.CLOSED))
    assert "did not finish" in said


def test_a_machine_that_answers_tcp_has_a_network() -> None:
    assert "cloud-init" not in diagnose(Evidence(UNREACHABLE, "", Reached.CLOSED))
    assert "nothing listens" in diagnose(Evidence(UNREACHABLE, "", Reached.CLOSED))
    assert "without a network" not in diagnose(Evidence(WITH_DEVICE, "", Reached.NOTHING))


def test_ended_wait_for_the_network_is_no_evidence() -> None:
    said = diagnose(Evidence(NETWORK_WAIT + LOGIN, "", Reached.NOTHING))
    assert "login prompt" in said


@pytest.mark.parametrize(
    ("status", "words"),
    [("ok", "allowed_source"), ("impaired", "it has no network"), ("initializing", "not answer")],
)
def test_ec2_status_check_distinguishes_firewall_from_missing_network(
    status: str, words: str
) -> None:
    assert words in diagnose(Evidence(LOGIN, status, Reached.NOTHING))
