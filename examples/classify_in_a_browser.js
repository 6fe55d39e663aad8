// Classify a picture in a browser, with an ONNX file exported --with-preprocessing: npm install onnxruntime-web
import * as ort from "onnxruntime-web";

export async function classify(picture, folder) {
  const about = await (await fetch(`${folder}/model.json`)).json();
  const session = await ort.InferenceSession.create(`${folder}/model.onnx`);
  const { width, height } = picture; // an ImageBitmap: await createImageBitmap(file)
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(picture, 0, 0);
  const rgb = canvas.getImageData(0, 0, width, height).data.filter((_, index) => index % 4 < 3); // without alpha
  const input = new ort.Tensor("uint8", Uint8Array.from(rgb), [1, height, width, 3]);
  const { output } = await session.run({ input });
  const answers = about.classes.map((name, index) => ({ name, probability: output.data[index] }));
  return answers.sort((one, other) => other.probability - one.probability);
}
