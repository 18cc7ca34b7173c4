// The reference from JavaScript: node reference.mjs digits.onnx expected.safetensors
// Every intermediate of the network, in ONNX Runtime, is held against the numbers that the specification gives.

import { readFile } from "node:fs/promises";
import { InferenceSession, Tensor } from "onnxruntime-node";

const [network, expected] = process.argv.slice(2);
const { images, ...reference } = await readSafetensors(expected);
// Above "basic" it fuses LayerNorms, whose epsilon ONNX keeps in float32: float64 would be right to 1e-8 only.
const session = await InferenceSession.create(network, { graphOptimizationLevel: "basic" });
const found = await session.run({ images: new Tensor("float64", images.data, images.shape) });

let worst = { error: 0 };
for (const [name, { data }] of Object.entries(reference)) {
  const error = relativeError(found[name].data, data);
  if (!(error <= worst.error || Number.isNaN(worst.error))) worst = { name, error }; // NaN is worse than any number
}
const [count, classes] = found.logits.dims;
const digits = Array.from({ length: count }, (_, i) => largest(found.logits.data.subarray(i * classes, (i + 1) * classes)));
console.log(`digits: ${digits.join(" ")}`);
console.log(`${Object.keys(reference).length} intermediates, relative error at most ${worst.error.toExponential(1)} (${worst.name})`);
process.exitCode = worst.error < 64 * Number.EPSILON ? 0 : 1;

/** ‖found − reference‖ / ‖reference‖. */
function relativeError(found, reference) {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < reference.length; i++) {
    difference += (found[i] - reference[i]) ** 2;
    size += reference[i] ** 2;
  }
  return found.length === reference.length ? Math.sqrt(difference / size) : NaN;
}

/** The index of the largest number. */
function largest(numbers) {
  return numbers.indexOf(Math.max(...numbers));
}

/** Float64 tensors by name: eight bytes with the length of the header, the header as JSON, the numbers. */
async function readSafetensors(path) {
  const { buffer, byteOffset } = await readFile(path);
  const length = Number(new DataView(buffer, byteOffset).getBigUint64(0, true));
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, byteOffset + 8, length)));
  const start = byteOffset + 8 + length;
  const numbers = ([from, to]) => new Float64Array(buffer.slice(start + from, start + to));
  return Object.fromEntries(Object.entries(header).map(([name, x]) => [name, { shape: x.shape, data: numbers(x.data_offsets) }]));
}
