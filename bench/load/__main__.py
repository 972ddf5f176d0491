"""``python bench/load``: W1 to W5 on real processes; a table on stdout, JSON with --json.

Also ``dev`` (`flowctl dev` to a first result) and, with --size 3, ``takeover``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop
from bench.facts import Others, machine, others_text
from bench.load.cluster import Cluster, cpu_seconds, own_signal, rss_mb
from bench.load.loss import w5
from bench.load.moments import first_result, takeover
from bench.load.workloads import Driver, w1, w2, w3, w4


def show_logs(folder: Path) -> None:
    """Print the end of what each process said."""
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen workloads on a fresh cluster."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        cluster = Cluster(Path(folder), size=options.size, slots=options.slots)
        try:
            await cluster.start()
            assert cluster.bus is not None
            info = await cluster.info()
            driver = Driver(cluster.bus, info.slots)

            def cpu() -> dict[str, float]:
                return {name: cpu_seconds(pid) for name, pid in cluster.pids().items()}

            scale = options.scale
            if "W1" in options.workloads:
                results["W1"] = await w1(driver, runs=int(500 * scale))
            if "W2" in options.workloads:
                results["W2"] = await w2(driver, rounds=int(30 * scale), cpu=cpu)
            if "W3" in options.workloads:
                results["W3"] = await w3(driver, rounds=int(15 * scale))
            if "W4" in options.workloads:
                results["W4"] = await w4(driver, runs=10_000)
            if "W5" in options.workloads:
                results["W5"] = await w5(cluster, driver)
            if "takeover" in options.workloads:
                results["takeover"] = await takeover(cluster, driver)
            results["rss_mb"] = {n: round(rss_mb(p), 1) for n, p in cluster.pids().items()}
        except BaseException:
            show_logs(Path(folder))
            raise
        finally:
            await cluster.stop()
    return results


def rows(size: int, results: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = []
    servers = (
        f"{size} coordinator, {size} NATS" if size == 1 else f"{size} coordinators, {size} NATS"
    )

    def row(name: str, what: str, value: str) -> None:
        lines.append(f"| {name} | {what} | {servers} | {value} |")

    if found := results.get("W1"):
        row(
            "W1",
            "single-step run, submit to result",
            f"p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms",
        )
    if found := results.get("W2"):
        rate = found["steps_per_s"]
        row(
            "W2",
            "200 runs x 10 chained steps",
            f"{rate['median']:,.0f} steps/s ({rate['min']:,.0f} to {rate['max']:,.0f}), "
            f"{found['cpu_us_per_step']['all']:.0f} us CPU a step",
        )
    if found := results.get("W3"):
        took = found["ms"]
        row(
            "W3",
            "fan-out of 1,000 and join",
            f"{took['median']:.0f} ms ({took['min']:.0f} to {took['max']:.0f})",
        )
    if found := results.get("W4"):
        row("W4", "10,000 one-step runs", f"{found['runs_per_s']:,.0f} runs/s")
    if found := results.get("takeover"):
        took = found["seconds"]
        row(
            "takeover",
            "owner of a shard killed, to the next answer for it",
            f"{took['median']:.2f} s ({took['min']:.2f} to {took['max']:.2f})",
        )
    if found := results.get("dev"):
        row(
            "dev",
            "`flowctl dev` on an empty folder, to a first result",
            f"{found['seconds']:.1f} s",
        )
    if found := results.get("W5"):
        row(
            "W5",
            "W2 with the worker killed, back after 1 s",
            f"{found['completed']} of {found['runs']} completed, pause {found['pause_s']:.1f} s, "
            f"{found['again']} steps begun again",
        )
    return lines


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["W1", "W2", "W3", "W4", "W5"])
    parser.add_argument("--size", type=int, choices=(1, 3), default=1, help="cluster size")
    parser.add_argument("--slots", type=int, default=256, help="slots of the worker")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer rounds")
    parser.add_argument("--json", type=Path, help="write figures and machine facts here")
    options = parser.parse_args()
    own_signal()
    if "takeover" in options.workloads and options.size == 1:
        parser.error("takeover needs --size 3")
    others = Others()
    results = uvloop.run(measure(options)) if set(options.workloads) - {"dev"} else {}
    if "dev" in options.workloads:
        results["dev"] = first_result()
    facts = machine() | {"others_cores": others.cores()}
    print(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, "
        f"Python {facts['python']}, nats-server {facts['nats_server']}; {others_text(facts)}\n"
    )
    print("| | workload | servers | measured |\n|---|---|---|---|")
    print("\n".join(rows(options.size, results)))
    if options.json:
        document = {"machine": facts, "size": options.size, "results": results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
