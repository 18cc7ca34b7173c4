"use strict";
{
  const { size, levels, mean, std, look, layers, digits } = digitsNetwork;
  const SIDE = 32, TILE = 4, TILES = SIDE / TILE; // squares of the drawing, of a tile, and tiles a side
  const BRUSH = 2.6; // radius in squares: strokes as wide as those of the data set
  const by = (id) => document.getElementById(id);
  const ink = new Uint8Array(SIDE * SIDE), drawing = by("drawing"), pen = drawing.getContext("2d");
  let session, found, layer = layers[3], maps = [], query = [70, 62]; // in pixels, where most digits have ink
  let reading = false, changed = false;

  /** How many squares of each tile are white: what the network was trained on. */
  function counts() {
    const tiles = new Uint8Array(TILES * TILES);
    ink.forEach((white, at) => (tiles[Math.floor(at / SIDE / TILE) * TILES + Math.floor((at % SIDE) / TILE)] += white));
    return tiles;
  }

  /** `digits.preprocess` before it is normalised, from 0 to 1: bilinear, black beyond the edge. Sums are of whole numbers. */
  function scaledUp(tiles, side) {
    const unit = (2 * side) / TILES, centre = (at) => 2 * at + 1 - side / TILES;
    const weight = (at, tile) => Math.max(0, unit - Math.abs(centre(at) - unit * tile));
    const pixels = new Float64Array(side * side);
    for (let y = 0; y < side; y++) for (let i = 0; i < TILES; i++) if (weight(y, i)) {
      for (let x = 0; x < side; x++) for (let j = 0; j < TILES; j++) pixels[y * side + x] += weight(y, i) * weight(x, j) * tiles[i * TILES + j];
    }
    return pixels.map((sum) => sum / (levels * unit ** 2));
  }

  /** White squares that count as these tiles do: in each tile those where the image, scaled up, is brightest. */
  function drawTiles(tiles) {
    const bright = scaledUp(tiles, SIDE);
    ink.fill(0);
    tiles.forEach((count, tile) => {
      const first = Math.floor(tile / TILES) * TILE * SIDE + (tile % TILES) * TILE;
      const squares = Array.from({ length: TILE * TILE }, (_, i) => first + Math.floor(i / TILE) * SIDE + (i % TILE));
      for (const at of squares.sort((a, b) => bright[b] - bright[a]).slice(0, count)) ink[at] = 1;
    });
  }

  function paint(canvas, values, side) {
    const step = canvas.width / side, brush = canvas.getContext("2d");
    values.forEach((value, at) => {
      brush.fillStyle = `rgb(${value} ${value} ${value})`;
      brush.fillRect((at % side) * step, Math.floor(at / side) * step, step, step);
    });
  }

  function run(images) {
    return session.run({ images: new ort.Tensor("float32", images, [1, 1, size, size]) });
  }

  /** Run the network on the drawing as it is now, and once more if it changed meanwhile. */
  async function read() {
    changed = true;
    paint(drawing, Array.from(ink, (white) => 255 * white), SIDE);
    if (reading || !session) return;
    reading = true;
    by("live").setAttribute("aria-busy", "true");
    while (changed) {
      changed = false;
      const image = scaledUp(counts(), size), images = Float32Array.from(image, (value) => (value - mean) / std);
      const start = performance.now();
      const outputs = await run(images);
      const milliseconds = performance.now() - start;
      const logits = outputs.logits.data, largest = Math.max(...logits), shares = Array.from(logits, (x) => Math.exp(x - largest));
      const sum = shares.reduce((a, b) => a + b), probabilities = shares.map((share) => share / sum);
      const weights = Object.fromEntries(layers.map(({ name }) => [name, outputs[name].data]));
      const grey = Uint8Array.from(image, (value) => Math.round(255 * value));
      found = { logits, probabilities, weights, grey, milliseconds, digit: logits.indexOf(largest) };
    }
    reading = false;
    by("live").found = found; // for whoever looks into the page, as its tests do
    showClass();
    showMaps();
    by("live").setAttribute("aria-busy", "false");
  }

  function showClass() {
    const { probabilities, digit, milliseconds } = found;
    by("class").textContent = ink.includes(1) ? `The network reads a ${digit}.` : `Nothing is drawn. The network takes black for a ${digit}.`;
    [...by("bars").children].forEach((bar, i) => {
      bar.className = i === digit ? "most" : "";
      bar.querySelector("b").style.width = `${100 * probabilities[i]}%`;
      bar.lastChild.textContent = percent(probabilities[i]);
    });
    by("time").textContent = `${milliseconds.toFixed(1)} ms for the whole network, on one thread.`;
  }

  /** What each head gives to the keys of the query, on the map of that head. */
  function showMaps() {
    if (!found) return;
    const { name, kind, tokens: [, columns], keys: [down, across], stride, heads } = layer, count = down * across;
    const [row, column] = maps[0].map.inside(Math.floor(query[0] / stride), Math.floor(query[1] / stride));
    const said = maps.map(({ map, most, canvas }, head) => {
      const start = ((head * layer.tokens[0] + row) * columns + column) * count;
      const shares = found.weights[name].subarray(start, start + count), largest = percent(Math.max(...shares));
      map.draw(found.grey, shares, row, column);
      most.textContent = largest;
      canvas.setAttribute("aria-label", `Head ${head}: most, ${largest}, goes to ${place(shares, across)}.`);
      return `${heads > 1 ? `head ${head}` : "the head"} gives most, ${largest}, to ${place(shares, across)}`;
    });
    const keys = `${down} × ${across} keys${kind === "iwsa" ? " of its window" : ""}`;
    by("query").textContent = `The query at row ${row}, column ${column} has ${keys}: ${said.join("; ")}. An even share is ${percent(1 / count)}.`;
  }

  function ask(token) {
    if (!token) return;
    query = token.map((at) => (at + 0.5) * layer.stride);
    showMaps();
  }

  function about({ kind, span, tokens: [rows, columns], keyTokens, heads }) {
    const many = `${heads} ${heads > 1 ? "heads" : "head"}`;
    const area = keyTokens > 1 ? `each key is an area of ${keyTokens} × ${keyTokens} tokens` : "each token is a key";
    return kind === "ssa"
      ? `SSA, ${many}, ${rows} × ${columns} tokens: ${area}, and the query sees the whole image.`
      : `IWSA, ${many}, ${rows} × ${columns} tokens: the query sees its window of ${span} × ${span} tokens.`;
  }

  function chooseLayer(chosen) {
    layer = chosen;
    by("kind").textContent = about(layer);
    by("maps").dataset.heads = layer.heads;
    by("maps").replaceChildren();
    maps = Array.from({ length: layer.heads }, (_, head) => {
      const figure = document.createElement("figure");
      figure.innerHTML = `<figcaption>head ${head}</figcaption><canvas role="img"></canvas><div class="scale"><span>0</span><i></i><span></span></div>`;
      by("maps").append(figure);
      const canvas = figure.querySelector("canvas"), map = new AttentionMap(canvas, layer, look, canvas.clientWidth * devicePixelRatio);
      figure.querySelector("i").style.background = map.gradient;
      for (const kind of ["pointermove", "pointerdown"]) canvas.addEventListener(kind, (event) => ask(map.tokenAt(event)));
      return { map, canvas, most: figure.querySelector(".scale").lastChild };
    });
    showMaps();
  }

  /** A line of white squares, as thick as the brush. */
  function stroke([fromX, fromY], [toX, toY]) {
    const steps = Math.ceil(2 * Math.hypot(toX - fromX, toY - fromY)) + 1;
    for (let i = 0; i <= steps; i++) {
      const x = fromX + ((toX - fromX) * i) / steps, y = fromY + ((toY - fromY) * i) / steps;
      for (let at = 0; at < ink.length; at++) if (Math.hypot((at % SIDE) + 0.5 - x, Math.floor(at / SIDE) + 0.5 - y) < BRUSH) ink[at] = 1;
    }
    read();
  }

  function listen() {
    let last;
    const at = (event) => {
      const box = drawing.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
    };
    drawing.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      drawing.setPointerCapture(event.pointerId);
      stroke((last = at(event)), last);
    });
    drawing.addEventListener("pointermove", (event) => {
      if (last) stroke(last, (last = at(event)));
    });
    for (const end of ["pointerup", "pointercancel"]) drawing.addEventListener(end, () => (last = undefined));
    by("clear").addEventListener("click", () => {
      ink.fill(0);
      read();
    });
    by("layer").addEventListener("change", () => chooseLayer(layers[by("layer").selectedIndex]));
    by("maps").addEventListener("keydown", (event) => {
      const { map } = maps[0], token = map.inside(Math.floor(query[0] / layer.stride), Math.floor(query[1] / layer.stride));
      ask(map.tokenBeside(event, ...token));
    });
  }

  function build() {
    by("bars").innerHTML = digits.map((_, i) => `<li><span>${i}</span><i><b></b></i><span></span></li>`).join("");
    by("layer").innerHTML = layers.map(({ name, kind }) => `<option>${name}: ${kind.toUpperCase()}</option>`).join("");
    by("layer").selectedIndex = layers.indexOf(layer);
    for (const { number, digit, image } of digits) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = `digit:${number}, a ${digit}`;
      button.setAttribute("aria-label", button.title);
      button.innerHTML = `<canvas width="${TILES}" height="${TILES}"></canvas>`;
      paint(button.firstChild, image.map((count) => Math.round((255 * count) / levels)), TILES);
      button.addEventListener("click", () => {
        drawTiles(image);
        read();
      });
      by("digits").append(button);
    }
    chooseLayer(layer);
    listen();
  }

  async function unpacked(text) {
    const letters = atob(text), packed = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function start() {
    const module = URL.createObjectURL(new Blob([onnxRuntime.module], { type: "text/javascript" }));
    Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmPaths: { mjs: module }, wasmBinary: await unpacked(onnxRuntime.wasm) });
    session = await ort.InferenceSession.create(await unpacked(digitsNetwork.model), { executionProviders: ["wasm"] });
    await run(new Float32Array(size * size)); // the first run compiles, and its time would say nothing
    by("state").hidden = true;
    by("live").hidden = false;
    build();
    drawTiles(digits[4].image);
    await read();
  }

  start().catch((error) => {
    by("state").hidden = false;
    by("state").textContent = `This browser does not run the network: ${error.message || error}`;
  });
}
