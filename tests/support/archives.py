"""Tar archives for tests."""

from __future__ import annotations

import io
import tarfile


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar archive of files by name; `mode` as for `tarfile.open`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
