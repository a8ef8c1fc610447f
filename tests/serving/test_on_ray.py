"""scripts/on_ray.yaml with two replicas on this machine; needs requirements-ray.txt, which no other test does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from serving import jpeg

ROOT = Path(__file__).resolve().parents[2]
# Ray starts its processes with low priority, and gives up if they do not start within a minute.
SETTINGS = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120"}


@pytest.mark.full
def test_two_replicas_answer(export: Path, tmp_path: Path):
    pytest.importorskip("ray")
    plan = yaml.safe_load((ROOT / "scripts" / "on_ray.yaml").read_text())
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        plan["http_options"]["port"] = found.getsockname()[1]
    (application,) = plan["applications"]
    application["args"] = {"model_file": str(export / "model"), "reader_thread": 1}
    application["deployments"][0]["ray_actor_options"] = {"num_cpus": 0.1}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(tmp_path / "plan.yaml")]
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{plan['http_options']['port']}", timeout=60) as client:
            deadline = time.monotonic() + 600
            while not is_up(client):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(1)
            images = [jpeg(seed) for seed in range(8)]
            answers = [
                client.post("/predict/tiny", content=each, headers={"Content-Type": "image/jpeg"})
                for each in images * 5
            ]
            assert {answer.status_code for answer in answers} == {200}
            again = [answer.json()["predictions"][0]["class"] for answer in answers]
            assert again == again[:8] * 5
            bad = client.post("/predict", content=b"x", headers={"Content-Type": "image/jpeg"})
            assert bad.status_code == 400 and "not an image" in bad.json()["error"]
            # Each replica counts its own images, and together they have answered all.
            counted = {answered_by_one(client) for _ in range(40)}
            assert len(counted) == 2 and sum(counted) == len(answers)
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(120)
        process.kill()


def is_up(client: httpx.Client) -> bool:
    with suppress(httpx.HTTPError):
        return client.get("/health").status_code == 200
    return False


def answered_by_one(client: httpx.Client) -> int:
    """Number of images answered by the replica that gets this request."""
    found = re.search(r"^serve_images_total\{.*\} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return int(float(found[1])) if found else 0
