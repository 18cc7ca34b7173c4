"use strict";

/** A map over a grey image: what one query gives to each of its keys, in colours; the query and its window are framed. */
class AttentionMap {
  /**
   * layer: kind, tokens, keys, stride, span and keyTokens of a `LayerAttention`.
   * look: size of the image [height, width], colors from 0 to 1, and that of the frame.
   */
  constructor(canvas, layer, look, pixels = 600) {
    Object.assign(this, { canvas, layer, look });
    this.pen = canvas.getContext("2d");
    this.colors = look.colors.map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
    const [rows, columns] = layer.tokens, [height, width] = look.size;
    this.right = Math.max(width, columns * layer.stride);
    this.bottom = Math.max(height, rows * layer.stride);
    this.scale = Math.max(1, Math.ceil(pixels / width)); // pixels of the canvas in one of the image
    canvas.width = this.right * this.scale;
    canvas.height = this.bottom * this.scale;
  }

  /** The background of a scale from 0 to the largest share. */
  get gradient() {
    return `linear-gradient(90deg, ${this.look.colors.join(", ")})`;
  }

  /** grey: a byte for each pixel of the image. shares: one for each key. */
  draw(grey, shares, row, column) {
    const { kind, keys: [down, across], stride, span, keyTokens } = this.layer, { right, bottom, scale, pen } = this;
    const [height, width] = this.look.size, most = Math.max(...shares), side = keyTokens * stride;
    const window = kind === "iwsa" ? span : 0;
    const top = window ? (row - (row % window)) * stride : 0, left = window ? (column - (column % window)) * stride : 0;
    const picture = new ImageData(right, bottom);
    for (let y = 0; y < bottom; y++) for (let x = 0; x < right; x++) {
      const value = y < height && x < width ? grey[y * width + x] : 128, at = 4 * (y * right + x);
      const i = Math.floor((y - top) / side), j = Math.floor((x - left) / side);
      const seen = y >= top && x >= left && i < down && j < across;
      const tint = seen ? this.color(most ? shares[i * across + j] / most : 0) : null;
      for (let c = 0; c < 3; c++) picture.data[at + c] = tint ? 0.72 * tint[c] + 0.28 * (128 + 0.6 * (value - 128)) : value;
      picture.data[at + 3] = 255;
    }
    const small = new OffscreenCanvas(right, bottom);
    small.getContext("2d").putImageData(picture, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, this.canvas.width, this.canvas.height);
    for (const [thick, ink] of [[5, "#000000"], [2.5, this.look.frame]]) {
      pen.lineWidth = thick;
      pen.strokeStyle = ink;
      pen.strokeRect(column * stride * scale, row * stride * scale, stride * scale, stride * scale);
      if (window) pen.strokeRect(left * scale, top * scale, window * stride * scale, window * stride * scale);
    }
  }

  color(share) {
    const { colors } = this;
    const at = Math.min(1, Math.max(0, share)) * (colors.length - 1), low = Math.min(Math.floor(at), colors.length - 2);
    return colors[low].map((value, i) => value + (at - low) * (colors[low + 1][i] - value));
  }

  /** Row and column of the token at a pointer's event. */
  tokenAt(event) {
    const box = this.canvas.getBoundingClientRect(), { stride } = this.layer;
    const across = ((event.clientX - box.left) / box.width) * this.right, down = ((event.clientY - box.top) / box.height) * this.bottom;
    return this.inside(Math.floor(down / stride), Math.floor(across / stride));
  }

  /** Row and column of the token to which an arrow key leads; nothing for another key. */
  tokenBeside(event, row, column) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return undefined;
    event.preventDefault();
    return this.inside(row + step[0], column + step[1]);
  }

  /** The nearest token of the map. */
  inside(row, column) {
    const [rows, columns] = this.layer.tokens;
    return [Math.min(rows - 1, Math.max(0, row)), Math.min(columns - 1, Math.max(0, column))];
  }
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** Where the largest of the shares is, in words. */
function place(shares, across) {
  const at = shares.indexOf(Math.max(...shares));
  return `row ${Math.floor(at / across)}, column ${at % across}`;
}
