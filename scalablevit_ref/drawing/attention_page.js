{
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const grey = bytes(data.image), weights = new Uint16Array(bytes(data.weights).buffer), STEPS = 65535;
  const [rows, columns] = data.layer.tokens, [down, across] = data.layer.keys, { heads } = data.layer, count = down * across;
  const canvas = document.getElementById("map"), map = new AttentionMap(canvas, data.layer, data.look);
  let [row, column] = data.query, head = heads > 1 ? -1 : 0;

  document.querySelector("#scale i").style.background = map.gradient;

  /** What the query gives to each of its keys: of one head, or the mean over all. */
  function shares() {
    const found = new Float64Array(count), taken = head < 0 ? [...Array(heads).keys()] : [head];
    for (const one of taken) {
      const start = ((one * rows + row) * columns + column) * count;
      for (let i = 0; i < count; i++) found[i] += weights[start + i] / STEPS / taken.length;
    }
    return found;
  }

  function draw() {
    const found = shares(), most = percent(Math.max(...found));
    map.draw(grey, found, row, column);
    const whose = head < 0 ? "the heads' mean gives" : `head ${head} gives`;
    const keys = `${down} × ${across} keys${data.layer.kind === "iwsa" ? " of its window" : ""}`;
    document.getElementById("most").textContent = most;
    document.getElementById("says").textContent =
      `The query at row ${row}, column ${column}: ${whose} most, ${most}, to ${place(found, across)} of ${keys}. An even share is ${percent(1 / count)}.`;
  }

  function ask(token) {
    if (!token || (token[0] === row && token[1] === column)) return;
    [row, column] = token;
    draw();
  }

  canvas.addEventListener("pointermove", (event) => ask(map.tokenAt(event)));
  canvas.addEventListener("keydown", (event) => ask(map.tokenBeside(event, row, column)));
  for (const choice of document.querySelectorAll("input[name=head]")) choice.addEventListener("change", () => {
    head = Number(choice.value);
    draw();
  });
  draw();
}
