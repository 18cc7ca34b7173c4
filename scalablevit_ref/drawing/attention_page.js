"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const grey = bytes(data.image), weights = new Uint16Array(bytes(data.weights).buffer), STEPS = 65535;
  const [rows, columns] = data.tokens, [down, across] = data.keys, [height, width] = data.size, count = down * across;
  const colors = data.colors.map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
  const canvas = document.getElementById("map"), pen = canvas.getContext("2d");
  const scale = Math.max(1, Math.ceil(600 / width)); // pixels of the canvas in one of the image
  const right = Math.max(width, columns * data.stride), bottom = Math.max(height, rows * data.stride);
  let [row, column] = data.query, head = data.heads > 1 ? -1 : 0;

  document.querySelector("#scale i").style.background = `linear-gradient(90deg, ${data.colors.join(", ")})`;
  canvas.width = right * scale;
  canvas.height = bottom * scale;

  /** What the query gives to each of its keys: of one head, or the mean over all. */
  function shares() {
    const found = new Float64Array(count), heads = head < 0 ? [...Array(data.heads).keys()] : [head];
    for (const one of heads) {
      const start = ((one * rows + row) * columns + column) * count;
      for (let i = 0; i < count; i++) found[i] += weights[start + i] / STEPS / heads.length;
    }
    return found;
  }

  function color(share) {
    const at = Math.min(1, Math.max(0, share)) * (colors.length - 1), low = Math.min(Math.floor(at), colors.length - 2);
    return colors[low].map((value, i) => value + (at - low) * (colors[low + 1][i] - value));
  }

  function draw() {
    const found = shares(), most = Math.max(...found), side = data.keyTokens * data.stride;
    const window = data.kind === "iwsa" ? data.span : 0;
    const top = window ? (row - (row % window)) * data.stride : 0, left = window ? (column - (column % window)) * data.stride : 0;
    const picture = new ImageData(right, bottom);
    for (let y = 0; y < bottom; y++) for (let x = 0; x < right; x++) {
      const value = y < height && x < width ? grey[y * width + x] : 128, at = 4 * (y * right + x);
      const i = Math.floor((y - top) / side), j = Math.floor((x - left) / side);
      const seen = y >= top && x >= left && i < down && j < across;
      const tint = seen ? color(most ? found[i * across + j] / most : 0) : null;
      for (let c = 0; c < 3; c++) picture.data[at + c] = tint ? 0.72 * tint[c] + 0.28 * (128 + 0.6 * (value - 128)) : value;
      picture.data[at + 3] = 255;
    }
    const small = new OffscreenCanvas(right, bottom);
    small.getContext("2d").putImageData(picture, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
    for (const [thick, ink] of [[5, "#000000"], [2.5, data.frame]]) {
      pen.lineWidth = thick;
      pen.strokeStyle = ink;
      pen.strokeRect(column * data.stride * scale, row * data.stride * scale, data.stride * scale, data.stride * scale);
      if (window) pen.strokeRect(left * scale, top * scale, window * data.stride * scale, window * data.stride * scale);
    }
    say(found, most);
  }

  function say(found, most) {
    const at = found.indexOf(most), percent = (share) => `${(100 * share).toFixed(1)} %`;
    const whose = head < 0 ? "the heads' mean gives" : `head ${head} gives`;
    const where = `row ${Math.floor(at / across)}, column ${at % across}`;
    const keys = `${down} × ${across} keys${data.kind === "iwsa" ? " of its window" : ""}`;
    document.getElementById("most").textContent = percent(most);
    document.getElementById("says").textContent =
      `The query at row ${row}, column ${column}: ${whose} most, ${percent(most)}, to ${where} of ${keys}. An even share is ${percent(1 / count)}.`;
  }

  function ask(nextRow, nextColumn) {
    const found = [Math.min(rows - 1, Math.max(0, nextRow)), Math.min(columns - 1, Math.max(0, nextColumn))];
    if (found[0] === row && found[1] === column) return;
    [row, column] = found;
    draw();
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * right, down = ((event.clientY - box.top) / box.height) * bottom;
    ask(Math.floor(down / data.stride), Math.floor(across / data.stride));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    ask(row + step[0], column + step[1]);
  });
  for (const choice of document.querySelectorAll("input[name=head]")) choice.addEventListener("change", () => {
    head = Number(choice.value);
    draw();
  });
  draw();
}
