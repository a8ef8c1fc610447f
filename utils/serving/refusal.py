"""The server's refusals: an HTTP status and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class Refusal(Exception):
    """A request is refused.

    Args:
        status: the HTTP status.
        sentence: what is wrong, and what to do.
        headers: the response's headers.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


def try_again(status: int, sentence: str) -> Refusal:
    """A refusal of a request that may succeed a second later: 429 for too many requests, otherwise 503."""
    return Refusal(status, sentence, {"Retry-After": "1"})


@dataclass(frozen=True)
class Limits:
    """The limits of requests; each is a flag.

    Attributes:
        requests: requests answered at the same time.
        images: images in a request.
        body: bytes of a request.
        pixels: pixels of an image before it is resized.
        seconds: time for a request to arrive.
    """

    requests: int = 128
    images: int = 64
    body: int = 32 << 20
    pixels: int = 1 << 27
    seconds: float = 60.0

    def check_body(self, length: int) -> None:
        """Raises `Refusal` if a request has too many bytes."""
        if length > self.body:
            raise Refusal(
                413, f"the request has more than {self.body} bytes: send fewer or smaller images (--serve_megabytes)"
            )

    def check_images(self, count: int) -> None:
        """Raises `Refusal` if a request has too many images, or none."""
        if count < 1:
            raise Refusal(400, "the request has no image")
        if count > self.images:
            raise Refusal(413, f"the request has {count} images, but may have at most {self.images} (--serve_images)")
