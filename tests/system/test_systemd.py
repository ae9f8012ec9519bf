"""fedimg under a systemd, installed as README.md tells it: started, killed, hung, misconfigured.

Follows systemd/*.service, README.md, docs/operations.md. Run by `make systemd-test`, as root.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedimg.process.systemd import MISCONFIGURED
from tests.system.checkout import commands
from tests.system.systemd_site import (
    CHECKOUT,
    CONFIGURATION,
    CONSUMER,
    KEYS,
    UNITS,
    WEB,
    WORKER,
    InstalledSite,
    installed,
)

pytestmark = [pytest.mark.systemd, pytest.mark.process, pytest.mark.timeout(3600)]

#: Of systemd-analyze, 0 is best and 10 worst.
MOST_EXPOSURE = 2.5
#: systemd's own messages about the ends that these tests bring about.
SYSTEMD = "systemd"
#: WatchdogSec= in the tests of hanging, in seconds: the units' own would take minutes.
WATCHDOG = 30


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledSite]:
    with installed(tmp_path_factory.mktemp("systemd")) as site:
        yield site


@pytest.fixture
def running(site: InstalledSite) -> InstalledSite:
    """Return the site with all units started, whatever an earlier test has left."""
    site.machine.run(f"systemctl start {' '.join(UNITS)}")
    return site


def warnings(site: InstalledSite, since: float) -> list[str]:
    """Return what the journal has of fedimg's units with priority warning and above."""
    units = " ".join(f"--unit={unit}" for unit in UNITS)
    entries = site.machine.journal(units, "--priority=warning", f"--since=@{since:.0f}")
    return [str(entry["MESSAGE"]) for entry in entries]


def status_line(site: InstalledSite, unit: str, name: str) -> str:
    """Return a line of /proc/PID/status of a unit's main process."""
    text = site.machine.run(f"cat /proc/{site.pid(unit)}/status")
    return re.findall(rf"(?m)^{name}:\s*(.*)$", text)[0]


def test_documented_check_finds_no_problem_before_the_start(site: InstalledSite) -> None:
    check, start = commands("README.md", "5. Check the configuration")
    assert check.startswith("systemd-run ")
    told = site.machine.run(check, status=None)
    found = [line for line in told.splitlines() if line.startswith(("✗", "x "))]
    assert found == [], told
    began = time.time()
    site.machine.run(start)
    site.machine.run(f"systemctl enable --now {CONSUMER} {WEB}")
    for unit in UNITS:
        # Type=notify: the start returns when the process says that it is ready.
        assert site.active(unit), unit
        assert site.machine.show(unit, "SubState") == "running", unit
    assert warnings(site, began) == []


def test_announcements_of_both_buses_become_public(running: InstalledSite) -> None:
    began = time.time()
    for release, by_broker in (("1.1", False), ("2.1", True)):
        before = running.public()
        build = running.announce(release, by_broker=by_broker)
        running.published(build)
        assert running.public() - before == 10
    assert warnings(running, began) == []
    # The catalogue is written where the worker's unit may write.
    running.until(
        lambda: "43" in running.machine.run("cat /srv/fedimg/latest.json", status=None),
        "the catalogue",
    )


def test_journal_has_fields_and_priorities(running: InstalledSite) -> None:
    entries = running.machine.journal(f"--unit={WORKER}", "--identifier=fedimg")
    of_job = [entry for entry in entries if "FEDIMG_JOB" in entry]
    assert {entry["PRIORITY"] for entry in of_job} == {"6"}
    (job, *_) = running.jobs()
    named = running.machine.journal(f"FEDIMG_JOB={job['job']}")
    # From its beginning to the removal of what it needed, with the region.
    assert "queued" in named[0]["MESSAGE"]
    assert "FEDIMG_REGION" in named[-1]
    # What hub and consumer log by a site's own format has its priority, too.
    began = time.time()
    running.broker.put("buildsys.build.state.change", b"no JSON")
    running.until(
        lambda: any("did not pass validation" in each for each in warnings(running, began)),
        "the consumer's warning",
    )
    refused = running.machine.journal(f"--unit={CONSUMER}", "--priority=warning")
    assert {entry["PRIORITY"] for entry in refused} <= {"3", "4"}


def test_files_are_as_private_as_documented(running: InstalledSite) -> None:
    stat = "stat --format='%a %U:%G'"
    machine = running.machine
    assert machine.run(f"{stat} /var/lib/fedimg").strip() == "750 fedimg:fedimg"
    assert machine.run(f"{stat} /var/lib/fedimg/fedimg.db").strip() == "640 fedimg:fedimg"
    assert machine.run(f"{stat} {KEYS}").strip() == "600 root:root"
    assert machine.run(f"{stat} {CONFIGURATION}").strip() == "640 root:fedimg"
    assert machine.run("find /var/lib/fedimg -perm /027 ! -type l ! -perm -g=r").strip() == ""


def test_keys_reach_the_worker_alone(running: InstalledSite) -> None:
    for unit in UNITS:
        pid = running.pid(unit)
        given = running.machine.run(f"tr '\\0' '\\n' </proc/{pid}/environ")
        hidden = running.machine.run(f"stat --format=%a /proc/{pid}/root{KEYS}").strip()
        if unit == WORKER:
            assert "AWS_SECRET_ACCESS_KEY=" in given
        else:
            assert "AWS_ACCESS_KEY_ID" not in given, unit
            assert "AWS_SECRET_ACCESS_KEY" not in given, unit
            assert hidden == "0", unit


def test_processes_have_no_privileges(running: InstalledSite) -> None:
    for unit in UNITS:
        # CAP_… none, no new privileges, and a filter of system calls.
        for name, value in (("CapEff", "0" * 16), ("NoNewPrivs", "1"), ("Seccomp", "2")):
            assert status_line(running, unit, name) == value, (unit, name)
        for path in ("/etc/fedimg", "/opt/fedimg", "/usr/bin", "/root"):
            line = f"nsenter --mount --target={running.pid(unit)} test -w {path}"
            assert "1" in running.machine.run(f"{line} || echo 1"), (unit, path)
        told = running.machine.run(f"systemd-analyze security --no-pager {unit}")
        (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", told)
        assert float(exposure) <= MOST_EXPOSURE, told
    journal = running.machine.run("journalctl --no-pager --boot")
    assert "does not support BPF/cgroup firewalling" not in journal


def test_killed_processes_are_started_again_and_the_job_goes_on(running: InstalledSite) -> None:
    build = running.announce("3.1")
    running.until(
        lambda: (job := running.job(build)) is not None and job["state"] == "running",
        "the job running",
    )
    before = {unit: running.pid(unit) for unit in UNITS}
    for unit in UNITS:
        running.machine.run(f"systemctl kill --kill-whom=main --signal=SIGKILL {unit}")
    for unit in UNITS:
        running.until(lambda unit=unit: running.restarted(unit, before[unit]), f"{unit} again")
        assert running.machine.show(unit, "NRestarts") == "1", unit
    running.published(build)
    # Hub and consumer receive again.
    for release, by_broker in (("4.1", False), ("5.1", True)):
        running.published(running.announce(release, by_broker=by_broker))


@contextmanager
def impatient(site: InstalledSite) -> Iterator[None]:
    """Shorten the watchdogs' limits, which are all that a drop-in changes."""
    for unit in UNITS:
        folder = f"/run/systemd/system/{unit}.service.d"
        site.machine.write(f"{folder}/short.conf", f"[Service]\nWatchdogSec={WATCHDOG}\n")
    site.machine.run(f"systemctl daemon-reload && systemctl restart {' '.join(UNITS)}")
    try:
        yield
    finally:
        for unit in UNITS:
            site.machine.run(f"rm -r /run/systemd/system/{unit}.service.d")
        site.machine.run(f"systemctl daemon-reload && systemctl restart {' '.join(UNITS)}")


def test_hanging_processes_are_ended_by_the_watchdog(running: InstalledSite) -> None:
    for unit in UNITS:
        assert int(running.machine.show(unit, "WatchdogUSec").rstrip("mins ") or 0), unit
    with impatient(running):
        began = time.time()
        build = running.announce("6.1")
        running.until(lambda: running.job(build), "the job")
        before = {unit: running.pid(unit) for unit in UNITS}
        for unit in UNITS:
            running.machine.run(f"kill -STOP {before[unit]}")
        for unit in UNITS:
            running.until(lambda unit=unit: running.restarted(unit, before[unit]), f"{unit} again")
        told = warnings(running, began)
        for unit in UNITS:
            assert any(f"{unit}.service: Watchdog timeout" in line for line in told), told
        running.published(build)
        assert "dumped core" not in running.machine.run("journalctl --no-pager --boot")


def test_units_stop_within_their_time_limits(running: InstalledSite) -> None:
    running.announce("7.1")
    for unit in UNITS:
        before = time.monotonic()
        running.machine.run(f"systemctl stop {unit}")
        took = time.monotonic() - before
        limit = running.machine.show(unit, "TimeoutStopUSec")
        assert took < _seconds(limit), unit
        # Not killed: the process ended by itself, in order.
        assert running.machine.show(unit, "Result") == "success", unit
        assert running.machine.show(unit, "ExecMainStatus") == "0", unit


def test_second_start_and_reload_change_nothing(running: InstalledSite) -> None:
    for unit in UNITS:
        before = running.pid(unit)
        running.machine.run(f"systemctl start {unit}")
        told = running.machine.run(f"systemctl reload {unit}", status=None)
        # The configuration is read at the start: systemd says that there is nothing to reload.
        assert "not applicable" in told, told
        assert running.pid(unit) == before
    # A second worker, by hand, is told that there is one.
    check = commands("README.md", "5. Check the configuration")[0]
    told = running.machine.run(check.replace("fedimg check", "fedimg worker"), status=5)
    assert "worker" in told


def test_wrong_configuration_is_told_and_not_tried_for_ever(running: InstalledSite) -> None:
    good = (running.machine.root / CONFIGURATION.lstrip("/")).read_text()
    running.machine.write(CONFIGURATION, good.replace("[koji]", "[kojy]", 1), 0o640, "root:fedimg")
    began = time.time()
    try:
        for unit in UNITS:
            running.machine.run(f"systemctl restart {unit}", status=None)
            running.until(
                lambda unit=unit: running.machine.show(unit, "ActiveState") == "failed",
                f"{unit} failed",
            )
            assert running.machine.show(unit, "ExecMainStatus") == str(MISCONFIGURED), unit
            told = running.machine.run(f"systemctl status --no-pager {unit}", status=3)
            assert "kojy" in told, told
            assert "fedimg.toml" in told, told
        # RestartSec is 10 s.
        time.sleep(15)
        for unit in UNITS:
            assert running.machine.show(unit, "ActiveState") == "failed", unit
            assert running.machine.show(unit, "NRestarts") == "0", unit
            entries = running.machine.journal(
                f"--unit={unit}", "--priority=err", f"--since=@{began:.0f}"
            )
            assert any("kojy" in str(entry["MESSAGE"]) for entry in entries), unit
    finally:
        running.machine.write(CONFIGURATION, good, 0o640, "root:fedimg")
    running.machine.run(f"systemctl start {' '.join(UNITS)}")
    assert all(running.active(unit) for unit in UNITS)


def test_power_cut_loses_nothing(running: InstalledSite) -> None:
    """The machine ends in the middle of a job, and starts with its enabled units."""
    build = running.announce("8.1")
    running.until(lambda: running.job(build), "the job")
    running.machine.cut_power()
    running.machine.boot()
    for unit in UNITS:
        running.until(lambda unit=unit: running.active(unit), f"{unit} after the boot")
    running.published(build)


def test_fresh_checkout_was_not_changed(running: InstalledSite) -> None:
    there = running.machine.run(f"ls {CHECKOUT}").split()
    assert "build" not in there
    assert not [name for name in there if name.endswith(".egg-info")]


def _seconds(value: str) -> float:
    """Return systemd's time span, such as `1min 15s`, in seconds."""
    factors = {"h": 3600, "min": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(h|min|ms|s)", value)
    return sum(float(number) * factors[unit] for number, unit in parts)
