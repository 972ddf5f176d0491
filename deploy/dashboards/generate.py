"""Writes the dashboards of this folder: python deploy/dashboards/generate.py

What they show is in boards.toml; where a panel stands, and what its queries are called, is worked
out here. `--check` writes nothing and fails when a file is not what this says, as a test does.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CLUSTER = 'cluster=~"$cluster"'
NAMESPACE = CLUSTER + ', namespace=~"$namespace"'
SHORT = {
    "@W": NAMESPACE + ', workflow=~"$workflow"',
    "@N": NAMESPACE,
    "@C": CLUSTER,
    "@R": "$__rate_interval",
}
SIZES = {"stat": (4, 4)}
"""Width and height by kind of panel; others are 8 by 7."""


def expanded(query: str) -> str:
    """Return *query* with what its short forms stand for."""
    for short, text in SHORT.items():
        query = query.replace(short, text)
    return query


def queries(panel: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the panel's queries, each with its legend."""
    found = []
    if "quantiles" in panel:
        name, _, chosen = panel["quantiles"].partition("{")
        buckets = f"sum by (le) (rate(headrace_{name}_bucket{{{chosen}[@R]))"
        found += [
            (f"histogram_quantile({q}, {buckets})", f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)
        ]
    found += panel.get("queries", [])
    return [(expanded(query), legend) for query, legend in found]


def document(board: dict[str, Any]) -> dict[str, Any]:
    """Return a dashboard as Grafana reads it."""
    return {
        "uid": board["uid"],
        "title": board["title"],
        "description": board["text"],
        "tags": ["headrace"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [
            {
                "type": "dashboards",
                "title": "Headrace",
                "tags": ["headrace"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": _variables(board)},
        "panels": _panels(board),
    }


def _variables(board: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        _values("cluster", "label_values(headrace_build_info, cluster)"),
        _values("namespace", f"label_values(headrace_fleet_workers{{{CLUSTER}}}, namespace)"),
    ]
    if "workflow" in board.get("variables", ()):
        query = f"label_values(headrace_workflow_runs_ended_total{{{NAMESPACE}}}, workflow)"
        found.append(_values("workflow", query))
    if "run" in board.get("variables", ()):
        found.append({"name": "run", "label": "Run", "type": "textbox", "query": "RUN"})
    return found


def _values(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Series that have no such label are chosen, too.
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    top = 0
    for row in board["row"]:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        made.append({"id": len(made) + 1, "type": "row", "title": row["heading"], "gridPos": place})
        left, top, height = 0, top + 1, 0
        for panel in row["panel"]:
            size = SIZES.get(panel.get("kind", ""), (8, 7))
            width, tall = panel.get("width", size[0]), panel.get("height", size[1])
            if left + width > WIDTH:
                left, top, height = 0, top + height, 0
            place = {"h": tall, "w": width, "x": left, "y": top}
            made.append(_panel(panel, len(made) + 1, place))
            left, height = left + width, max(height, tall)
        top += height
    return made


def _panel(panel: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
    kind = panel.get("kind", "timeseries")
    made: dict[str, Any] = {
        "id": number,
        "type": kind,
        "title": panel["title"],
        "gridPos": place,
    }
    if kind == "text":
        return made | {"options": {"mode": "markdown", "content": panel["text"]}}
    table = kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": SOURCE,
            "expr": query,
            "legendFormat": legend or "__auto",
            "exemplar": kind == "timeseries" and "_bucket" in query,
            "instant": table,
            "range": not table,
            "format": {"table": "table", "heatmap": "heatmap"}.get(kind, "time_series"),
        }
        for index, (query, legend) in enumerate(queries(panel))
    ]
    stacking = {"mode": "normal" if panel.get("stacked") else "none", "group": "A"}
    custom = {"fillOpacity": 10, "showPoints": "never", "stacking": stacking}
    defaults: dict[str, Any] = {"unit": panel["unit"], "min": 0}
    if kind == "timeseries":
        defaults["custom"] = custom
    if panel["title"].startswith("Clock"):
        del defaults["min"]
    made |= {
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }
    return made | ({"description": panel["text"]} if "text" in panel else {})


def pages() -> dict[str, str]:
    """Return file names and contents."""
    return {
        board["uid"].removeprefix("headrace-") + ".json": json.dumps(document(board), indent=2)
        + "\n"
        for board in tomllib.loads((HERE / "boards.toml").read_text("utf-8"))["board"]
    }


def main() -> None:
    """Write the dashboards, or check them."""
    stale = [
        name
        for name, text in pages().items()
        if not (HERE / name).is_file() or (HERE / name).read_text("utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(stale)}; run python {Path(__file__).name}" if stale else 0)
    for name in stale:
        (HERE / name).write_text(pages()[name], "utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
