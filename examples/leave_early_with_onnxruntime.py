"""Let samples leave a progressive network of ONNX files early: needs onnxruntime and NumPy.

python leave_early_with_onnxruntime.py runs/mine/progressive inputs.npy outputs.npy
"""

import json
import sys
from pathlib import Path

import numpy
import onnxruntime


def leave_early(folder: Path, x: numpy.ndarray) -> numpy.ndarray:
    """Compute the calibrated logits of each input, [batch, classes], at the exit where it is sure enough to leave."""
    places, outputs = numpy.arange(len(x)), {}
    for stage in json.loads((folder / "model.json").read_text())["stages"]:
        session = onnxruntime.InferenceSession(str(folder / stage["file"]), providers=["CPUExecutionProvider"])
        logits, *hidden = session.run(None, {"input": x})
        sure = 1 / numpy.exp(logits - logits.max(1, keepdims=True)).sum(1)  # the largest probability
        leaves = sure >= stage["threshold"] if hidden else numpy.full(len(x), True)
        outputs |= dict(zip(places[leaves], logits[leaves], strict=True))
        if leaves.all():
            break
        x, places = hidden[0][~leaves], places[~leaves]
    return numpy.stack([outputs[place] for place in sorted(outputs)])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    numpy.save(sys.argv[3], leave_early(Path(sys.argv[1]), numpy.load(sys.argv[2])))
