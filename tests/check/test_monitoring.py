"""The alerts and the dashboard of packaging/: they name metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ALERTS = PROJECT / "packaging" / "alerts.yml"
DASHBOARD = PROJECT / "packaging" / "dashboard.json"


def named(text: str) -> set[str]:
    """Metrics in it."""
    return set(re.findall(r"\bpg_amqp_[a-z_]+\b", text))


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_is_one_of_ours(file: Path) -> None:
    ours = named((PROJECT / "docs" / "reference" / "metrics.md").read_text())
    text = file.read_text().replace("pg_amqp_py", "")
    assert named(text)
    assert named(text) - ours == set()


def test_each_panel_of_the_dashboard_asks_something() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


def test_prometheus_takes_the_alerts(tmp_path: Path) -> None:
    """It takes the dashboard's questions too, as rules that record them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    questions = {
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    }
    rules = [
        {"record": f"question:{number}", "expr": question}
        for number, question in enumerate(sorted(questions))
    ]
    asked = tmp_path / "dashboard.yml"
    # JSON is YAML.
    asked.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    for file in (ALERTS, asked):
        done = subprocess.run(
            [promtool, "check", "rules", file], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
