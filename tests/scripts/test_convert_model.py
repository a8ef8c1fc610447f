"""utils/convert_model.py: models that PaddlePaddle exported as exports of our own, ONNX, and plain packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from paddle_programs import PPLCNET, example_files, write_example

from utils import convert_model
from utils.deploy.exported import load_exported
from utils.errors import FlagError, UserError

try:
    import onnxruntime
    import onnxscript  # noqa: F401
except ImportError:
    onnxruntime = None


@pytest.fixture
def custom(tmp_path):
    return write_example("custom_net", tmp_path / "custom_net")


@pytest.fixture
def expected(tmp_path) -> dict[str, np.ndarray]:
    """What the original answered for custom_net."""
    path = tmp_path / "expected.npz"
    path.write_bytes(example_files()["custom_net_expected.npz"])
    with np.load(path) as file:
        return dict(file)


def probabilities(model_file: Path, images: np.ndarray) -> np.ndarray:
    return load_exported(str(model_file))(torch.from_numpy(images)).softmax(1).numpy()


def test_an_export_of_our_own(run_script_here, custom, expected, tmp_path):
    output = tmp_path / "ours"
    run_script_here(convert_model, model_file=custom, output=output, resize_short_size=40, image_mean="0.1,0.2,0.3")
    assert np.abs(probabilities(output / "model", expected["images"]) - expected["out0"]).max() < 1e-6
    about = load_exported(str(output / "model")).description
    assert (about.network, about.image_shape, about.resize_short_size) == ("custom_net", [3, 32, 32], 40)
    assert (about.image_mean, about.class_dim, about.class_names) == ([0.1, 0.2, 0.3], 10, [])
    assert sorted(path.name for path in output.iterdir()) == ["model", "params"]


def test_a_plain_package(run_script_here, custom, expected, tmp_path):
    """Its answers are the program's own, after the softmax, for any number of images."""
    run_script_here(convert_model, model_file=custom, output=tmp_path / "x.pt2")
    network = torch.export.load(tmp_path / "x.pt2").module()
    for count in (1, 3):
        answers = network(torch.from_numpy(expected["images"][:count])).detach().numpy()
        assert np.abs(answers - expected["out0"][:count]).max() < 1e-6
    assert b"/utils/" not in (tmp_path / "x.pt2").read_bytes()


@pytest.mark.skipif(onnxruntime is None, reason="needs requirements-onnx.txt")
def test_onnx(run_script_here, custom, expected, tmp_path):
    run_script_here(convert_model, model_file=custom, output=tmp_path / "onnx", inference_format="onnx")
    found = probabilities(tmp_path / "onnx" / "model.onnx", expected["images"])
    assert np.abs(found - expected["out0"]).max() < 1e-6


@pytest.mark.skipif(onnxruntime is None, reason="needs requirements-onnx.txt")
def test_int8(run_script_here, custom, expected, tiny_dataset, tmp_path):
    run_script_here(
        convert_model,
        model_file=custom,
        output=tmp_path / "onnx",
        inference_format="onnx",
        calibration_dir=tiny_dataset / "val",
    )
    assert load_exported(str(tmp_path / "onnx" / "model_int8.onnx")).description.precision == "int8"
    assert probabilities(tmp_path / "onnx" / "model_int8.onnx", expected["images"]).shape == (3, 10)


def test_names_of_classes(run_script_here, tmp_path):
    folder = write_example(PPLCNET[0], tmp_path / "PPLCNet_x0_25_infer")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{number} name {number}\n" for number in range(20)))
    run_script_here(convert_model, model_file=folder, output=tmp_path / "ours", class_map_path=names)
    assert load_exported(str(tmp_path / "ours" / "model")).description.class_names[3] == "name 3"


def test_what_would_be_lost_or_does_not_go_together(run_script_here, custom, tmp_path):
    def refused(**given: object) -> str:
        with pytest.raises(FlagError) as error:
            run_script_here(convert_model, **{"model_file": custom, **given})
        return str(error.value)

    assert "holds a PaddlePaddle model, which would be overwritten" in refused(output=custom)
    assert "does not go with --output x.pt2" in refused(output="x.pt2", inference_format="torch")
    assert "is a file: give a folder" in refused(output=custom / "params")
    assert "--calibration_dir needs --inference_format=onnx" in refused(output=tmp_path / "x", calibration_dir=tmp_path)
    assert not (tmp_path / "x").exists()


def test_what_is_no_exported_model(run_script_here, tmp_path):
    (tmp_path / "model").write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match="not a PaddlePaddle program"):
        run_script_here(convert_model, model_file=tmp_path / "model", output=tmp_path / "x")
    assert not (tmp_path / "x").exists()
