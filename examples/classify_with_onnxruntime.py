"""Classify images with an ONNX file exported --with-preprocessing: needs onnxruntime, NumPy and Pillow.

python classify_with_onnxruntime.py deployed cat.jpg dog.jpg
"""

import json
import sys
from pathlib import Path

import numpy
import onnxruntime
from PIL import Image, ImageOps

folder, *paths = sys.argv[1:]
if not Path(folder, "model.onnx").is_file():
    sys.exit(f"{folder} is no folder with a model.onnx: give the one that lctprune export RUN --format onnx wrote")
about = json.loads(Path(folder, "model.json").read_text())
session = onnxruntime.InferenceSession(str(Path(folder, "model.onnx")), providers=["CPUExecutionProvider"])
if session.get_inputs()[0].type != "tensor(uint8)":
    sys.exit(f"the file in {folder} takes no pixels: export it with --format onnx --with-preprocessing")
for path in paths:
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    pixels = numpy.asarray(picture)[None]  # uint8 [1, height, width, 3], of any size
    (probabilities,) = session.run(["output"], {"input": pixels})
    best = probabilities[0].argmax()
    print(f"{path}: {about['classes'][best]} ({probabilities[0, best]:.1%})")
