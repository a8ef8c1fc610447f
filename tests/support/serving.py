"""A server in this process, asked without a socket."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import torch
from anyio.from_thread import start_blocking_portal

from utils.flags import parse
from utils.serving.app import build_app
from utils.serving.server import build_service
from utils.serving.service import Service


def service_of(model_file: Path, *flags: str) -> Service:
    """What predict.py --serve_port makes of its flags; images are decoded in this process."""
    args = parse("predict", [f"--model_file={model_file}", "--serve_port=0", "--reader_thread=0", *flags])
    return build_service(args, torch.device("cpu"), torch.float32)


class Client:
    """Asks the server of a service, within a `with`; the server has an event loop in a thread of its own."""

    def __init__(self, service: Service, key: str = "") -> None:
        self._app = build_app(service, key)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._app, raise_app_exceptions=False), base_url="http://server"
        )
        self._stack = ExitStack()

    def __enter__(self) -> Client:
        self._portal = self._stack.enter_context(start_blocking_portal())
        self._stack.enter_context(self._portal.wrap_async_context_manager(self._app.router.lifespan_context(self._app)))
        self._stack.enter_context(self._portal.wrap_async_context_manager(self._http))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._portal.call(partial(self._http.get, path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._portal.call(partial(self._http.post, path, **options))

    def posting(self, path: str, **options: Any) -> Future[httpx.Response]:
        """A request that goes on meanwhile."""
        return self._portal.start_task_soon(partial(self._http.post, path, **options))


def jpeg(seed: int, height: int = 80, width: int = 100) -> bytes:
    """A photograph of noise."""
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()
