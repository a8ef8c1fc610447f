"""Tests the server against its OpenAPI description with schemathesis: valid and invalid requests.

schemathesis is not a requirement: `pip install schemathesis`, anywhere on the PATH, and
`bash run.sh test --all tests/serving`.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from launch import Launcher

TOOL = shutil.which("schemathesis")
# A schema cannot say that a string is an image, or that a shape is the network's.
BUT = "positive_data_acceptance"


@pytest.mark.full
@pytest.mark.skipif(TOOL is None, reason="schemathesis is not installed")
def test_every_answer_is_as_described(export: Path, launch: Launcher, tmp_path: Path):
    assert TOOL is not None
    running = launch.start(
        "predict.py", tmp_path, f"--model_file={export}/model", "--serve_port=0", "--reader_thread=1"
    )
    try:
        found = re.search(r"http://\S+", running.stdout.readline())
        assert found
        command = [TOOL, "run", f"{found[0]}openapi.json", f"--exclude-checks={BUT}", "--max-examples=50"]
        command += ["--phases=examples,coverage,fuzzing", "--seed=1", "--continue-on-failure", "--request-timeout=60"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=False)
        assert result.returncode == 0, result.stdout
        metrics = httpx.get(f"{found[0]}metrics").text
        for route in ("predict", "model_infer"):  # it has come as far as the network
            assert f'route="{route}",status="200"' in metrics
    finally:
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate()
    assert running.returncode == 0 and "Traceback" not in output
