"""benchmarks/mobile.py: processes with limits, results that outlive a stop, and the tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest

from benchmarks import mobile
from benchmarks.phones import one
from benchmarks.phones.engines import ENGINES, PACKAGES
from benchmarks.phones.tables import tables
from models.families import FAMILIES

LIMITS = Namespace(seconds=20.0, memory=1, verbose=False)


def test_one_network_of_each_family():
    names = mobile.smallest_of_families()
    assert len(names) == len(FAMILIES) and "MobileNetV1_x0_25" in names and "ViT_small_patch16_224" in names
    assert set(mobile.ENGINES) == set(ENGINES) == set(PACKAGES)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("call", "limits", "why"),
    [
        ("pass", {}, None),
        ("sys.exit('the last line')", {}, "the last line"),
        ("import os; os.abort()", {}, "ended by SIGABRT"),
        ("import time; time.sleep(60)", {"seconds": 0.2}, "more than 0.2 s"),
        ("bytearray(2 << 30)", {}, "MemoryError"),
    ],
)
def test_a_process_that_does_not_end_well(call, limits, why):
    assert mobile.run_limited(sys.executable, call, [], Namespace(**{**vars(LIMITS), **limits})) == why


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_nothing_that_a_converter_started_goes_on(tmp_path):
    call = f"import subprocess; open({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    assert mobile.run_limited(sys.executable, call, [], LIMITS) is None
    shown = subprocess.run(["ps", "-o", "stat=", "-p", (tmp_path / "pid").read_text()], capture_output=True, text=True)
    assert shown.stdout.strip()[:1] in ("", "Z")


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    results = tmp_path / "results.jsonl"
    line = {"network": "AlexNet", "engine": "ncnn", "trained": False, "failed": "x"}
    results.write_text(f'{json.dumps(line)}\n{{"network": "Alex')
    measured = []
    monkeypatch.setattr(mobile, "measure", lambda name, engines, args: measured.append((name, engines)))
    monkeypatch.setattr(
        sys, "argv", ["mobile.py", "--model=AlexNet,VGG11", "--engine=ncnn,mnn", f"--results={results}"]
    )
    mobile.main()
    assert measured == [("AlexNet", ["mnn"]), ("VGG11", ["ncnn", "mnn"])]


@pytest.mark.parametrize("flags", [["--engine=tvm"], ["--weights=x"], ["--weights=x", "--model=A,B", "--photos=y"]])
def test_wrong_flags(monkeypatch, capsys, flags):
    monkeypatch.setattr(sys, "argv", ["mobile.py", *flags])
    with pytest.raises(SystemExit) as end:
        mobile.main()
    assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_the_tables():
    common = {"network": "AlexNet", "trained": False}
    good = {**common, "engine": "ncnn", "difference": 2e-6, "ms": 3.21, "bytes": 4_560_000, "versions": {"ncnn": "1.0"}}
    wrong = {**common, "engine": "mnn", "difference": 0.5, "ms": 1.0, "bytes": 1}
    no = {**common, "engine": "litert", "failed": "an `odd` | operator"}
    older = {**common, "engine": "litert", "failed": "what it said before"}
    trained = {**good, "trained": True, "agreement": 1.0, "int8_agreement": 0.984, "int8_ms": 2.5, "int8_bytes": 2e6}
    text = tables([older, good, wrong, no, trained], mobile.ENGINES)
    assert "ncnn 1.0" in text and "| | litert | ncnn | mnn |" in text
    assert "| AlexNet | no | 2e-06 | **5e-01** |" in text and "| AlexNet |  | 3.2, 4.6 | 1.0, 0.0 |" in text
    assert "| litert | 0 of 1 | 0 |  |  |" in text and "| ncnn | 1 of 1 | 1 | 2e-06 |  |" in text
    assert "| mnn | 1 of 1 | 0 | 5e-01 |  |" in text
    slow = {**wrong, "ms": 12.84}
    assert "| mnn | 1 of 2 | 0 | 5e-01 | 12.8 |" in tables(
        [good, slow, {**no, "engine": "mnn", "network": "VGG11"}], ENGINES
    )
    assert "- litert: AlexNet: `an 'odd' \\| operator`" in text and "before" not in text
    assert "| ncnn | 100.0 | 3.21 | 4.56 | 98.4 | 2.50 | 2.00 |" in text


def test_what_is_found_is_kept_as_it_is_found(tmp_path, monkeypatch):
    """A quantizer that fails loses nothing of the float32 model's figures."""

    class Half:
        def convert(self, source, folder):
            (folder / "model").write_bytes(b"12345")
            return [folder / "model"]

        def open(self, files, source):
            return lambda image: image.reshape(1, -1)

        def quantize(self, source, folder):
            raise KeyError("no scale")

    monkeypatch.setitem(ENGINES, "half", Half)
    monkeypatch.setitem(PACKAGES, "half", ("torch", "no-such-package"))
    monkeypatch.setattr(one, "SECONDS", 0.0)
    images = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    for name, array in (("images", images), ("photos", images)):
        np.save(tmp_path / f"{name}.npy", array)
    for name in ("expected", "photo_logits"):
        np.save(tmp_path / f"{name}.npy", images.reshape(2, 3) + np.float32([[0, 0, 0.5], [9, 0, 0]]))
    one.measure("half", str(tmp_path), str(tmp_path))
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["bytes"] == 5 and found["difference"] == pytest.approx(9 / 12) and found["agreement"] == 0.5
    assert found["failed"] == "KeyError: 'no scale'" and list(found["versions"]) == ["torch"]
