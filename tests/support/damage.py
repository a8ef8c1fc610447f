"""Damaged and hostile files of many formats, made of whole ones by number.

Most damage keeps to a format's structure, so that it gets past the first check: parts are left out, doubled, swapped or
changed, and lengths and checksums around them are right again.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

from mutations import NUMBERS, damaged, mutate_json, mutate_message

Change = Callable[[random.Random, bytes], bytes]

BLOCK = 512  # of a tar file
# Boxes of HEIF that hold boxes, and how many bytes come before these.
CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iref": 4, b"moov": 0, b"trak": 0, b"dinf": 0}


def with_odd_number(rng: random.Random, content: bytes, within: int = 1 << 30) -> bytes:
    """One number among the first bytes is another: of 1 to 8 bytes, of either order."""
    if not content:
        return content
    width = rng.choice((1, 2, 4, 4, 8))
    place = rng.randrange(min(len(content), within))
    number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
    return content[:place] + number.to_bytes(width, rng.choice(("little", "big"))) + content[place + width :]


def changed(rng: random.Random, content: bytes) -> bytes:
    return with_odd_number(rng, content) if rng.random() < 0.5 else damaged(rng, content)


def mutated_parts(rng: random.Random, parts: list[bytes], change: Change = changed) -> list[bytes]:
    """Parts of a file of which a few were left out, doubled, swapped or changed, or that end early."""
    parts = list(parts)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not parts:
            break
        place, kind = rng.randrange(len(parts)), rng.randrange(8)
        if kind == 0:
            del parts[place]
        elif kind == 1:
            parts[place:place] = [parts[place]] * rng.choice((1, 2, 50, 2000))
        elif kind == 2:
            other = rng.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        elif kind == 3 and rng.random() < 0.3:
            del parts[place:]
        else:
            parts[place] = change(rng, parts[place])
    return parts


# ------------------------------------------------------------------------------------------------------- of weights

# What pickles of weights have, and some that they have not.
OPCODES = (
    *(bytes([code]) for code in b"}](ueasthjqrK\x85\x86\x87\x88\x89)Rb\x93\x94NG2c0io\x81\x8aQ"),
    *(b"X\1\0\0\0a", b"X\2\0\0\0f4", b"C\2ab", b"K\1", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 8, b"q\1", b"h\1"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"ctorch\nFloatStorage\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cbuiltins\neval\n", b"cos\nsystem\n"),
    *(b"h\1h\1\x86q\1" * 40, b"(" * 1000, b"]q\1h\1a", b"}X\1\0\0\0ah\1s", b"2" * 5000),
)  # fmt: skip


def mutated_pickle(rng: random.Random, content: bytes) -> bytes:
    """A pickle, changed opcode by opcode."""
    if rng.random() < 0.1:
        return damaged(rng, content)
    starts = [place for *_, place in pickletools.genops(content) if place is not None]
    parts = [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]

    def change(rng: random.Random, part: bytes) -> bytes:
        if rng.random() < 0.4:
            return rng.choice(OPCODES)
        return part[:1] + changed(rng, part[1:])

    return b"".join(mutated_parts(rng, parts, change))


def mutated_zip(
    rng: random.Random, members: dict[str, bytes], inner: Callable[[random.Random, str, bytes], bytes]
) -> bytes:
    """An archive of which a file is changed by `inner`, or its own structure is."""
    kind = rng.random()
    names = list(members)
    if kind < 0.75:
        name = rng.choice(names)
        members = {**members, name: inner(rng, name, members[name])}
    elif kind < 0.85:
        del names[rng.randrange(len(names))]
    buffer = io.BytesIO()
    compression = rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name in names:
            archive.writestr(
                name if rng.random() > 0.01 else rng.choice(("../x", "/x", "a" * 3000, "b")), members[name]
            )
    return damaged(rng, buffer.getvalue()) if kind > 0.85 else buffer.getvalue()


def mutated_header(rng: random.Random, content: bytes) -> bytes:
    """A .safetensors file: its description in JSON is changed, and has the right length, or not."""
    size = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    for _ in range(rng.choice((1, 1, 2, 5))):
        mutate_json(rng, header)
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = damaged(rng, text)
    length = rng.choice(NUMBERS) & ((1 << 64) - 1) if rng.random() < 0.05 else len(text)
    return struct.pack("<Q", length) + text + (damaged(rng, rest) if rng.random() < 0.1 else rest)


def mutated_message(rng: random.Random, content: bytes, kind: str) -> bytes:
    """A message of protocol buffers, with a few changes within its structure; `kind` as in `MESSAGES`."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        try:
            content = mutate_message(rng, content, kind)
        except (ValueError, IndexError):  # the change before has left no message
            break
    return damaged(rng, content) if rng.random() < 0.1 else content


def mutated_tar(rng: random.Random, content: bytes) -> bytes:
    """A tar file: headers and contents are changed; the headers have right checksums."""
    if rng.random() < 0.1:
        return damaged(rng, content)
    parts, at = [], 0
    while at + BLOCK <= len(content) and content[at]:
        size = -(-int(content[at + 124 : at + 135], 8) // BLOCK) * BLOCK
        parts.append(content[at : at + BLOCK + size])
        at += BLOCK + size

    def change(rng: random.Random, part: bytes) -> bytes:
        if rng.random() < 0.3:
            return part[:BLOCK] + changed(rng, part[BLOCK:])
        place, length = rng.choice(
            ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
        )
        new = rng.choice((
            b"\xff" * length, b"\x80" + b"\xff" * (length - 1), b"\0" * length, b"7" * length, b"9" * length,
            rng.randbytes(length), b"../x.jpg\0", b"a.cls\0", b"-1\0", b"%o\0" % (rng.choice(NUMBERS) & 0xFFFFFFFFFF),
            rng.choice((b"L", b"K", b"x", b"g", b"S", b"1", b"2", b"3", b"5", b"7")),
        ))[:length]  # fmt: skip
        header = bytearray(part[:place] + new + part[place + len(new) : BLOCK])
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + part[BLOCK:]

    return b"".join(mutated_parts(rng, parts, change)) + content[at:]


# -------------------------------------------------------------------------------------------------------- of images


def mutated_png(rng: random.Random, content: bytes) -> bytes:
    parts, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        parts.append(content[at + 4 : at + 8 + size])
        at += 12 + size
    parts = mutated_parts(rng, parts, lambda rng, part: part[:4] + changed(rng, part[4:]))
    chunks = (
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts if part[4:]
    )
    return content[:8] + b"".join(chunks)


def mutated_jpeg(rng: random.Random, content: bytes) -> bytes:
    parts, at = [], 2
    while content[at + 1] != 0xDA:
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        parts.append(content[at + 1 : at + 2] + content[at + 4 : at + 2 + size])
        at += 2 + size

    def change(rng: random.Random, part: bytes) -> bytes:
        if rng.random() < 0.1:
            return bytes([rng.randrange(0xC0, 0x100)]) + part[1:]
        return part[:1] + (with_odd_number if rng.random() < 0.7 else damaged)(rng, part[1:])

    segments = (
        b"\xff" + part[:1] + struct.pack(">H", min(len(part) + 1, 0xFFFF)) + part[1:]
        for part in mutated_parts(rng, parts, change)
    )
    scans = content[at:] if rng.random() < 0.6 else damaged(rng, content[at:])
    if rng.random() < 0.05:
        scans = scans[:-2] * rng.choice((10, 100, 1000)) + scans[-2:]
    return b"\xff\xd8" + b"".join(segments) + scans


def mutated_riff(rng: random.Random, content: bytes) -> bytes:
    """WebP."""
    parts, at = [], 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        parts.append(content[at : at + 4] + content[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    parts = mutated_parts(rng, parts, lambda rng, part: part[:4] + changed(rng, part[4:]))
    body = b"".join(
        part[:4] + struct.pack("<I", len(part) - 4) + part[4:] + b"\0" * (len(part) % 2) for part in parts if part[4:]
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def mutated_boxes(rng: random.Random, content: bytes) -> bytes:
    """HEIC and AVIF: goes down to a box at random; the lengths around it are right."""
    parts, at = [], 0
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        if not 8 <= size <= len(content) - at:
            break
        parts.append(content[at + 4 : at + size])
        at += size
    places = [place for place, part in enumerate(parts) if part[:4] in CONTAINERS]
    if places and rng.random() < 0.75:
        place = rng.choice(places)
        kind, before = parts[place][:4], 4 + CONTAINERS[parts[place][:4]]
        parts[place] = kind + parts[place][4:before] + mutated_boxes(rng, parts[place][before:])
    else:
        parts = mutated_parts(rng, parts, lambda rng, part: part[:4] + changed(rng, part[4:]))
    return b"".join(struct.pack(">I", len(part) + 4) + part for part in parts) + content[at:]


def mutated_fields(rng: random.Random, content: bytes) -> bytes:
    """GIF, BMP, TIFF, JPEG 2000 and the like: numbers at their beginning or end are changed."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        if rng.random() < 0.5:
            content = with_odd_number(rng, content, 64)
        elif rng.random() < 0.5:
            content = content[:-300] + with_odd_number(rng, content[-300:])
        else:
            content = damaged(rng, content)
    return content


IMAGE_MUTATORS: dict[str, Change] = {
    "jpg": mutated_jpeg,
    "progressive": mutated_jpeg,
    "png": mutated_png,
    "deep": mutated_png,
    "webp": mutated_riff,
    "heic": mutated_boxes,
    "avif": mutated_boxes,
}

# --------------------------------------------------------------------------------------------------------- of texts

WORDS = (
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b" " * 5000, b"a" * 100_000, b"9" * 5000, b"-1", b"1e9", b"0", b"1",
    b"9" * 11, b"\xc2\xb2", b"\xed\xa0\x80", b"0,1", b"1,0,1", b"\r", b"\t", b"[" * 5000, b"{" * 500, b"&a [*a]", b"*a",
    b"!!python/object", b"<<: *a", b"a: b: c", b"'", b'"\\ud800"', b"\x1b[2J", b"../../x", b"\xe6\xbc\xa2", b"null",
    b".nan", b"- ", b"? ", b"%", b"#",
)  # fmt: skip


def mutated_text(rng: random.Random, content: bytes) -> bytes:
    """A text: lines are left out, doubled and swapped, and words in them are others."""

    def change(rng: random.Random, line: bytes) -> bytes:
        words = line.split(b" ")
        place = rng.randrange(len(words))
        words[place] = rng.choice((*WORDS, damaged(rng, words[place])))
        return rng.choice((b" ", b" ", b"", b"\t", b",")).join(words)

    text = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(mutated_parts(rng, content.split(b"\n"), change))
    return damaged(rng, text) if rng.random() < 0.1 else text
