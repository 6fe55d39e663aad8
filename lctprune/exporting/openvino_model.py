"""Convert an ONNX model to OpenVINO's own pair of files, by OpenVINO's own reader."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from lctprune.exporting.copying import conversion


def openvino_files(network: nn.Module, model: bytes) -> tuple[bytes, bytes]:
    """Return the contents of an .xml file, the graph, and of the .bin file beside it, the weights in full precision.

    Reading ONNX loads nothing of OpenVINO's converters, which report their use to its makers.

    Args:
        network: original, for a message.
        model: content of an .onnx file.

    Raises:
        ExportError: OpenVINO has no operation for one in the model.
    """
    import openvino

    with conversion(network, "OpenVINO"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        read = openvino.Core().read_model(model=model)
        for operation in read.get_ops():
            # linear modes do not smooth what they make smaller, whatever they are told
            if operation.get_type_name() == "Interpolate" and operation.get_attributes()["antialias"]:
                operation.set_attribute("mode", "bilinear_pillow")
                operation.set_attribute("antialias", False)
        openvino.save_model(read, path, compress_to_fp16=False)  # by default it halves the weights
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()
