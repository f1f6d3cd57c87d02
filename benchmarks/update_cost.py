"""What an update of one task costs a device: bytes on the wire, and seconds until it serves.

A workstation learns a stream with SimpleCIL and publishes a release after each task; a device with
the real bundle polls over HTTP on loopback. Between the two stands a relay that counts what either
side sends: requests, answers, headers, metadata. Every poll is a process's first: nothing is kept
but what is in the store. After each update the device polls again and finds nothing new. The
figures are medians over the updates after the first, which fetches the whole chain of metadata.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import socket
import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from machine import cpu

from edgecl.backbones import load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cache import cache_dir
from edgecl.session import learn_task, new_learner
from edgecl.streams import load_stream
from edgecl_deploy.format import Channel
from edgecl_deploy.store.records import Config, Limits
from edgecl_deploy.store.store import Store
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome
from edgecl_deploy.update.trust import Trust
from edgecl_export.bundle import export_program
from edgecl_export.channel import Repository, Server
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

APPLYING = ("verify", "pretest", "switch", "commit")
LIMITS = {"wire": 40_000, "idle": 3_000, "apply_s": 3.0, "switch_s": 0.05}
RESULTS = Path("benchmarks/results/update_cost.json")
CHANNEL = "stable"


class Relay:
    """Passes TCP connections on to a server and counts the bytes of both directions."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (str(parts.hostname), int(parts.port or 80))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes = self.connections = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            far = socket.create_connection(self._to)
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                with self._lock:
                    self.bytes += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # the other direction has ended the connection
            pass

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def main() -> None:
    """Measure, print and record.

    Raises:
        SystemExit: a figure is over its limit.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit-s14")
    parser.add_argument("--stream", default="emoji-demo")
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows, bundle = measure(arguments, Path(scratch))
    result = {
        "what": "an update of one task with SimpleCIL over HTTP on loopback, bytes of both "
        "directions with headers and metadata, medians of the updates after the first",
        "backbone": arguments.backbone,
        "stream": arguments.stream,
        "seed": arguments.seed,
        "cores": len(os.sched_getaffinity(0)),
        "machine": f"{cpu()}, Python {platform.python_version()}, "
        f"onnxruntime {importlib.metadata.version('onnxruntime')}",
        "bundle_bytes": bundle,
        "median": {
            name: statistics.median(row[name] for row in rows[1:])
            for name in (*LIMITS, "largest_idle", "requests")
        },
        "limits": LIMITS,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result, arguments.json)
    over = [name for name, limit in LIMITS.items() if result["median"][name] > limit]
    if over:
        raise SystemExit(f"over the limit: {', '.join(over)}")


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print(json.dumps(result))
        return
    print(f"{result['machine']}; {result['cores']} cores, {result['bundle_bytes']} byte bundle")
    print(f"{'task':>4} {'wire':>7} {'idle':>6} {'apply s':>8} {'switch s':>9} {'pretest s':>10}")
    line = "{task:>4} {wire:7} {idle:6} {apply_s:8.3f} {switch_s:9.4f} {pretest_s:10.3f}"
    for row in result["rows"]:
        print(line.format(**row))
    for name, limit in LIMITS.items():
        print(f"{name}: median {result['median'][name]:g}, limit {limit:g}")


def measure(arguments: argparse.Namespace, out: Path) -> tuple[list[dict[str, Any]], int]:
    """Learn, publish and update task by task.

    Returns:
        One row per task, and the bytes of the bundle.
    """
    backbone = load_backbone(arguments.backbone)
    stream = load_stream(arguments.stream, seed=arguments.seed)
    learner = new_learner(
        out / "run", "simplecil", backbone, stream, seed=arguments.seed,
        cache=FeatureCache(cache_dir(), backbone.digest),
    )  # fmt: skip
    bundle, rows = out / "bundle", []
    export_program(learner.method.program, backbone, bundle)
    repository = Repository.create(out / "site", out / "keys", unencrypted=True)
    root = repository.root_file.read_bytes()
    with Server(out / "site") as server:
        relay = Relay(server.url)
        config = Config(str(bundle), relay.url, CHANNEL, "bench", limits=Limits(trial_seconds=0))
        store = Store.create(out / "store", config, root)
        for index, task in enumerate(stream.tasks):
            learn_task(learner, task, stream.classes)
            export_packs(learner.run, out / "packs")
            release = out / "releases" / str(index + 1)
            export_release(out / "packs", release, bundle)
            published = repository.publish(release, bundle, channel=CHANNEL).channel
            rows.append({"task": index, **one_update(store, root, relay, server, published)})
        relay.close()
    return rows, sum(path.stat().st_size for path in bundle.iterdir())


def one_update(
    store: Store, root: bytes, relay: Relay, server: Server, published: Channel
) -> dict[str, Any]:
    """Take a release, then poll three times in vain."""
    before, asked = relay.bytes, server.requests
    result = update(store, Trust(store.path, root, relay.url))
    assert (result.outcome, result.release) == (Outcome.UPDATED, published.number), result.reason
    wire, requests = relay.bytes - before, server.requests - asked
    idle = []
    for _ in range(3):
        before = relay.bytes
        assert update(store, Trust(store.path, root, relay.url)).outcome is Outcome.UP_TO_DATE
        idle.append(relay.bytes - before)
    seconds = result.seconds
    return {
        "wire": wire,
        "requests": requests,
        "bodies": result.fetched,
        "idle": statistics.median(idle),
        "largest_idle": max(idle),
        "apply_s": sum(seconds[phase] for phase in APPLYING),
        **{f"{phase}_s": seconds[phase] for phase in ("check", "fetch", *APPLYING)},
    }


if __name__ == "__main__":
    main()
