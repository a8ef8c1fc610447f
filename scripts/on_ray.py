"""predict.py --serve_port on Ray Serve: replicas on one machine or many, scaled with the load.

    pip install -r requirements-ray.txt
    serve run scripts/on_ray.yaml

Each replica is the whole application, with its own networks, decoders and batches; Ray's proxies distribute the
requests. docs/serving.md describes the differences.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve  # pyright: ignore[reportMissingImports]
from starlette.applications import Starlette

from predict import choose_device, choose_dtype
from utils.flags import parse
from utils.serving.app import build_app
from utils.serving.server import KEY, build_service


def build(flags: dict[str, Any]) -> Any:
    """The application of Ray Serve.

    Args:
        flags: predict.py's flags without dashes, from the deployment file.

    Raises:
        FlagError: a flag is invalid.
    """
    words = [*(f"--{name}={value}" for name, value in flags.items()), "--serve_port=0"]
    requests = parse("predict", words).serve_requests

    def application() -> Starlette:
        """Runs inside a replica."""
        args = parse("predict", words)
        return build_app(build_service(args, choose_device(args), choose_dtype(args)), os.environ.get(KEY, ""))

    class Classification:
        """A replica."""

    # A replica batches its requests; Ray's proxy refuses those beyond --serve_requests with status 503.
    deployment = serve.deployment(max_ongoing_requests=requests, max_queued_requests=requests)
    return deployment(serve.ingress(application)(Classification)).bind()
