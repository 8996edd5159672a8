// Which prompt tokens a cell kept, drawn over the prompt: by layer and KV head, or as the share of heads that keep it.
class Kept {
  // parts: lines of kept_tokens.jsonl; cells hold numbers of the run's cells.
  static async read(detail) {
    const kept = new Kept();
    kept.tokens = detail.tokens;
    kept.rows = new Map(); // cell -> {which: Uint32Array [layers * heads], bits, width}
    for (const part of detail.kept) {
      const bits = await inflate(part.patterns, "deflate");
      const which = new Uint32Array((await inflate(part.which, "deflate")).buffer);
      const heads = part.num_layers * part.num_kv_heads;
      [kept.layers, kept.heads, kept.length] = [part.num_layers, part.num_kv_heads, part.seq_len];
      part.cells.forEach((cell, place) => {
        if (cell !== null) kept.rows.set(cell, { bits, width: Math.ceil(part.seq_len / 8), which: which.subarray(place * heads, (place + 1) * heads) });
      });
    }
    return kept;
  }

  // Whether one head keeps each position: Uint8Array [length].
  head(cell, player) {
    const { bits, width, which } = this.rows.get(cell);
    const start = which[player] * width;
    const mask = new Uint8Array(this.length);
    for (let at = 0; at < this.length; at += 1) mask[at] = (bits[start + (at >> 3)] >> (at & 7)) & 1;
    return mask;
  }

  // The (layer, KV head) pairs that a choice names; -1 stands for all.
  players(layer, head) {
    const all = Array.from({ length: this.layers * this.heads }, (_, player) => player);
    return all.filter((player) => (layer < 0 || Math.floor(player / this.heads) === layer) && (head < 0 || player % this.heads === head));
  }

  // How many of these heads keep each position: Uint16Array [length].
  counts(cell, players) {
    const counts = new Uint16Array(this.length);
    for (const player of players) this.head(cell, player).forEach((bit, at) => { counts[at] += bit; });
    return counts;
  }
}

// Tokens in which one of the references stands: Set of positions.
function referenceTokens(tokens, references) {
  const text = tokens.join("").toLowerCase();
  const starts = [];
  let length = 0;
  for (const token of tokens) {
    starts.push(length);
    length += token.length;
  }
  const marked = new Set();
  for (const reference of references.map((one) => one.trim().toLowerCase()).filter((one) => one.length > 1).slice(0, 50)) {
    for (let found = text.indexOf(reference), times = 0; found >= 0 && times < 100; found = text.indexOf(reference, found + 1), times += 1) {
      starts.forEach((start, at) => {
        if (tokens[at].length && start < found + reference.length && start + tokens[at].length > found) marked.add(at);
      });
    }
  }
  return marked;
}

const tokenText = (token) => visible(token.replace(/\n/g, "↵\n"));

// The viewer of one sample; `cells` are all cells of the run, `chosen` the one to begin with.
async function keptViewer(detail, cells, chosen) {
  const kept = await Kept.read(detail);
  const methods = [...new Set([...kept.rows.keys()].map((cell) => cells[cell].method))];
  const state = { cell: kept.rows.has(chosen) ? chosen : [...kept.rows.keys()].find((cell) => kept.rows.get(cell) && cells[cell].budget !== "full") ?? [...kept.rows.keys()][0], layer: -1, head: -1 };
  const numbers = (count, all) => [[-1, all], ...Array.from({ length: count }, (_, at) => [at, String(at)])];
  const budgets = () => [...kept.rows.keys()].filter((cell) => cells[cell].method === cells[state.cell].method);

  const marked = referenceTokens(detail.tokens, detail.references);
  const spans = detail.tokens.map((token, at) => {
    const span = make("span", { class: marked.has(at) ? "reference" : null });
    span.textContent = tokenText(token);
    return span;
  });
  const places = new Map(spans.map((span, at) => [span, at]));
  const said = make("p", { class: "said", role: "status" });
  const hovered = make("p", { class: "hovered", text: "Point at a token to see who keeps it." });
  const map = make("canvas", { class: "map", role: "img" });
  let counts;
  let players;

  const fill = (control, options, value) => {
    control.replaceChildren(...options.map(([key, text]) => make("option", { value: key, text })));
    control.value = String(value);
  };
  const method = select("Method", methods.map((name) => [name, name]), cells[state.cell].method, (name) => {
    const budget = cells[state.cell].budget;
    const own = [...kept.rows.keys()].filter((cell) => cells[cell].method === name);
    choose(own.find((cell) => cells[cell].budget === budget) ?? own[0]);
  });
  const budgetControl = select("KV budget", budgets().map((cell) => [cell, cells[cell].budget]), state.cell, (cell) => {
    state.cell = Number(cell);
    update();
  });
  const layer = select("Layer", numbers(kept.layers, "all layers"), -1, (value) => {
    state.layer = Number(value);
    update();
  });
  const head = select("KV head", numbers(kept.heads, "all heads"), -1, (value) => {
    state.head = Number(value);
    update();
  });

  function update() {
    players = kept.players(state.layer, state.head);
    counts = kept.counts(state.cell, players);
    let total = 0;
    let never = 0;
    counts.forEach((count, at) => {
      total += count;
      never += count === 0;
      spans[at].style.setProperty("--share", (count / players.length).toFixed(3));
      spans[at].classList.toggle("dropped", count === 0);
    });
    const slots = total / players.length;
    said.textContent = visible(`${cells[state.cell].method}, budget ${cells[state.cell].budget}: ${number(slots, slots % 1 ? 1 : 0)} of ${number(kept.length)} tokens per head` +
      `${players.length > 1 ? ` on average over ${players.length} heads` : ""}; ${number(never)} tokens are kept by none of them.`);
    drawMap();
  }

  // Above the heads, where a reference answer stands: its height on a map this tall.
  const strip = (height) => (marked.size ? Math.max(2, Math.round(height / 40)) : 0);

  // Heads from top to bottom, the prompt from left to right, a column per stretch of tokens.
  function drawMap() {
    const rows = kept.layers * kept.heads;
    const columns = Math.min(kept.length, 900);
    const tall = Math.max(1, Math.min(4, Math.round(240 / rows)));
    const top = strip(rows * tall);
    [map.width, map.height] = [columns, top + rows * tall];
    const context = map.getContext("2d");
    const image = context.createImageData(columns, map.height);
    for (const at of marked) {
      const column = Math.floor((at * columns) / kept.length);
      for (let line = 0; line < top; line += 1) image.data.set(dark() ? [255, 138, 128, 255] : [179, 38, 30, 255], 4 * (line * columns + column));
    }
    const [red, green, blue] = dark() ? [88, 166, 255] : [0, 90, 181];
    const active = new Set(players);
    for (let player = 0; player < rows; player += 1) {
      const mask = kept.head(state.cell, player);
      const strength = active.has(player) ? 255 : 70;
      for (let column = 0; column < columns; column += 1) {
        const [from, to] = [Math.floor((column * kept.length) / columns), Math.floor(((column + 1) * kept.length) / columns)];
        let sum = 0;
        for (let at = from; at < to; at += 1) sum += mask[at];
        const alpha = sum ? Math.max(60, Math.round((strength * sum) / (to - from))) : 0;
        for (let line = 0; line < tall; line += 1) image.data.set([red, green, blue, Math.min(alpha, strength)], 4 * ((top + player * tall + line) * columns + column));
      }
    }
    context.putImageData(image, 0, 0);
    map.setAttribute("aria-label", "Kept tokens of every head: layers and KV heads from top to bottom, the prompt from left to right");
  }
  map.addEventListener("click", (event) => {
    const box = map.getBoundingClientRect();
    const rows = kept.layers * kept.heads;
    const over = strip(map.height) / map.height; // about: a click on the strip means the first head
    const share = (event.clientY - box.top) / box.height;
    const player = Math.max(0, Math.min(rows - 1, Math.floor(((share - over) / (1 - over)) * rows)));
    [state.layer, state.head] = [Math.floor(player / kept.heads), player % kept.heads];
    [layer.control.value, head.control.value] = [String(state.layer), String(state.head)];
    update();
  });
  const text = make("div", { class: "tokens", dir: "auto", tabindex: "0", role: "region", "aria-label": "Prompt with the kept tokens" }, ...spans);
  text.addEventListener("mouseover", (event) => {
    const at = places.get(event.target);
    if (at === undefined) return;
    hovered.textContent = `Token ${at} of ${kept.length}: kept by ${counts[at]} of ${players.length} head${players.length > 1 ? "s" : ""} (${number((100 * counts[at]) / players.length)} %).`;
  });
  update();
  const legend = make("span", { class: "scale", "aria-hidden": "true" }, ...[0, 0.25, 0.5, 0.75, 1].map((share) => {
    const sample = make("span", { class: "sample", text: `${100 * share} %` });
    sample.style.setProperty("--share", share);
    return sample;
  }));
  drawn.set(map, async () => drawMap());
  const choose = (cell) => {
    if (!kept.rows.has(cell)) return;
    state.cell = cell;
    method.control.value = cells[cell].method;
    fill(budgetControl.control, budgets().map((other) => [other, cells[other].budget]), cell);
    update();
  };
  const viewer = make("div", { class: "kept" },
    make("div", { class: "controls" }, method, budgetControl, layer, head, make("span", { class: "control" }, make("span", { text: "share of these heads that keep a token" }), legend)),
    said,
    make("div", { class: "mapbox" }, make("span", { class: "axis", text: `${kept.layers} layers × ${kept.heads} KV heads ↓, prompt →; click a row to choose its head` }), map),
    hovered, text,
    make("p", { class: "notes", text: "Stored is the selection after prefill. Methods that evict while decoding keep less of it later, methods that bring pages back or store fewer bits keep these tokens in that form." + (marked.size ? " Underlined, and red above the heads: where a reference answer stands in the prompt." : "") }));
  // Once it is in the page: the first reference answer comes into view.
  const reveal = () => {
    const [first] = marked;
    if (first !== undefined) text.scrollTop = spans[first].offsetTop - text.offsetTop - text.clientHeight / 3;
  };
  return { viewer, choose, reveal, has: (cell) => kept.rows.has(cell) };
}
