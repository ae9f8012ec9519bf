"""Debian's Prometheus scrapes a site that runs, and its alerts fire when the worker is stopped.

Follows docs/alerts.rules.yml, docs/grafana-dashboard.json.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from fedimg.store.heartbeats import SILENT_SECONDS
from tests.system.builds import announce_build
from tests.system.deployment import BIN, Deployment, deployed, unhurried

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "docs/alerts.rules.yml"
CASES = ROOT / "tests/web/alerts.tests.yml"
DASHBOARD = ROOT / "docs/grafana-dashboard.json"
METRICS = ROOT / "docs/operations.md"
#: Longest wait for what comes with a heartbeat: an interval of these, on a busy machine.
PATIENCE = 240.0


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def test_rules_are_valid() -> None:
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", str(RULES))


def test_each_alert_fires_when_it_should_and_is_silent_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(CASES))
    cases = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_rules_and_dashboard_use_metrics_that_are_documented() -> None:
    documented = set(re.findall(r"`(fedimg_\w+)`", METRICS.read_text()))
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    shown = "\n".join(target["expr"] for target in targets)
    alarms = "\n".join(rule["expr"] for rule in rules())
    for text in (shown, alarms):
        used = set(re.findall(r"\bfedimg_\w+", text))
        assert used
        assert used <= documented
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 10
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


class Prometheus:
    """A server that scrapes one address every second."""

    def __init__(self, deployment: Deployment, folder: Path, scraped: str) -> None:
        folder.mkdir()
        port = free_port()
        # The alerts wait for a minute and longer.
        quick = re.sub(r"(?m)^( +for:) .+$", r"\1 1s", RULES.read_text())
        (folder / "rules.yml").write_text(quick)
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": "fedimg", "static_configs": [{"targets": [scraped]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        promtool("check", "config", str(folder / "prometheus.yml"))
        self._url = f"http://127.0.0.1:{port}/api/v1"
        deployment.start(
            "prometheus",
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )

    def value(self, query: str) -> float | None:
        """Return the only value of a query, or None."""
        found = self._ask("query", query=query)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    def firing(self) -> dict[str, str]:
        """Return the alerts that fire, each with its severity."""
        alerts = (self._ask("alerts") or {"alerts": []})["alerts"]
        return {
            alert["labels"]["alertname"]: alert["labels"]["severity"]
            for alert in alerts
            if alert["state"] == "firing"
        }

    def _ask(self, path: str, **query: str) -> Any:
        try:
            answer = requests.get(f"{self._url}/{path}", params=query, timeout=20)
        except requests.ConnectionError:
            return None
        # Prometheus listens before its storage is open, and says 503 until then.
        if answer.status_code == requests.codes.service_unavailable:
            return None
        return answer.json().get("data")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_alert_fires_when_the_worker_is_stopped_and_ends_when_it_is_back(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"

    def configure(settings: str) -> str:
        return f'{unhurried(settings)}\n[web]\noperations = "{address}"\ncatalogue = ""\n'

    with deployed(tmp_path / "site", regions=("us-east-1",), configure=configure) as deployment:
        deployment.start("web", str(BIN / "fedimg"), "web")
        prometheus = Prometheus(deployment, tmp_path / "prometheus", address)

        def seen(query: str) -> float:
            return deployment.until(lambda: prometheus.value(query), query, PATIENCE)

        def until_firing(name: str, *, fires: bool = True) -> None:
            words = f"{name} {'fires' if fires else 'is over'}"
            patience = PATIENCE + SILENT_SECONDS
            deployment.until(
                lambda: True if (name in prometheus.firing()) == fires else None, words, patience
            )

        seen('up{job="fedimg"} == 1')
        seen("fedimg_workers == 1")
        seen('fedimg_heartbeat_timestamp_seconds{kind="hub"}')
        for name in ("FedimgNoWorker", "FedimgNoListener"):
            until_firing(name, fires=False)
        # The worker lists what has finished, and the hub receives a message of the lab's Koji.
        assert seen("min(fedimg_last_listing_timestamp_seconds)") > 0
        announce_build(deployment)
        assert seen('fedimg_last_bus_message_timestamp_seconds{kind="hub"}') > 0
        ready = requests.get(f"http://{address}/readyz", timeout=20)
        assert (ready.status_code, ready.text) == (200, "ok\n")

        assert deployment.stop("worker") == 0
        until_firing("FedimgNoWorker")
        assert prometheus.firing()["FedimgNoWorker"] == "critical"
        seen("fedimg_workers == 0")
        ready = requests.get(f"http://{address}/readyz", timeout=20)
        assert ready.status_code == 503
        assert "the worker last said at" in ready.text

        deployment.start_worker()
        until_firing("FedimgNoWorker", fires=False)
        assert requests.get(f"http://{address}/readyz", timeout=20).status_code == 200
