"""Starts the server, and ends it once all accepted requests are answered."""

from __future__ import annotations

import argparse
import os
import signal
import socket

import torch
import uvicorn

from utils.console import log, warn
from utils.deploy.answering import classifier_by_flags, load_by_flags
from utils.deploy.network import ExportedNetwork
from utils.errors import FlagError, reason
from utils.evaluation.classify import Classifier
from utils.serving.app import build_app
from utils.serving.decoders import Decoders
from utils.serving.metrics import Metrics
from utils.serving.refusal import Limits
from utils.serving.repository import Repository
from utils.serving.service import Service
from utils.system import usable_processors

# The environment variable of the key.
KEY = "SERVE_API_KEY"
# Defaults of --batch_size and --reader_thread: images in a batch, and decoding processes.
BATCH_SIZE = 16
WORKERS = 8
# Most open connections at the same time, most of them waiting for another request.
CONNECTIONS = 4096
# Most connections that wait to be accepted.
BACKLOG = 2048


def build_service(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Service:
    """Loads the networks and builds the service as the flags ask; raises what `load_exported` raises."""
    batch_size = args.batch_size if "batch_size" in args.given else BATCH_SIZE

    def load(model_file: str) -> tuple[ExportedNetwork, Classifier]:
        network = load_by_flags(args, model_file, device, dtype, batch_size)
        return network, classifier_by_flags(args, network)

    metrics = Metrics()
    limits = Limits(args.serve_requests, args.serve_images, args.serve_megabytes << 20, args.max_image_pixels)
    workers = min(args.reader_thread if "reader_thread" in args.given else WORKERS, usable_processors())
    decoders = Decoders(workers, limits.pixels)  # they start while the networks are loaded
    try:
        repository = Repository(args.model_file, args.params_file, load, batch_size, args.serve_wait / 1000, metrics)
    except BaseException:
        decoders.close()
        raise
    return Service(repository, decoders, limits, metrics)


def run(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Serves until SIGTERM or Ctrl-C; then it accepts nothing new and answers the accepted requests."""
    listener = _listen(args.serve_host, args.serve_port)
    service = build_service(args, device, dtype)
    key = os.environ.get(KEY, "")
    host, port = listener.getsockname()[:2]
    log(f"{', '.join(sorted(service.repository.served))}: http://{f'[{host}]' if ':' in host else host}:{port}/")
    if not key and args.serve_host not in ("127.0.0.1", "::1", "localhost"):
        warn(f"--serve_host {args.serve_host}: everyone who reaches this address can send requests: set a key in {KEY}")
    config = uvicorn.Config(
        build_app(service, key),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # no access log
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
    )
    # Uvicorn re-raises the signal that ended it, but a requested end is not an error.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
    log("all accepted requests are answered")


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the address of the flags; raises `FlagError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # requests wait from now on; the address is printed before the event loop runs
    except (OSError, UnicodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "not a name"
        raise FlagError(f"--serve_host {host} --serve_port {port}: {why}: give another address or port") from None
    return listener
