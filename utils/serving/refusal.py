"""What the server says when it does not answer: an HTTP status, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class Refusal(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        sentence: what is wrong, and what to do.
        headers: of the response.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


def try_again(status: int, sentence: str) -> Refusal:
    """A refusal of what may be answered a second later: 429 for too many requests, 503 for all else."""
    return Refusal(status, sentence, {"Retry-After": "1"})


@dataclass(frozen=True)
class Limits:
    """What a request may ask for; each is a flag.

    Attributes:
        requests: being answered at a time.
        images: of a request.
        body: bytes of a request.
        pixels: of an image, before it is resized.
        seconds: that a request may take to arrive.
    """

    requests: int = 128
    images: int = 64
    body: int = 32 << 20
    pixels: int = 1 << 27
    seconds: float = 60.0

    def check_body(self, length: int) -> None:
        """Raises `Refusal` for a request of so many bytes."""
        if length > self.body:
            raise Refusal(
                413, f"the request has more than {self.body} bytes: send fewer or smaller images (--serve_megabytes)"
            )

    def check_images(self, count: int) -> None:
        """Raises `Refusal` for a request of so many images."""
        if count < 1:
            raise Refusal(400, "the request has no image")
        if count > self.images:
            raise Refusal(413, f"the request has {count} images, and may have {self.images} (--serve_images)")
