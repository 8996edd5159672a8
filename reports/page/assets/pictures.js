// Pictures (Vega-Lite). Expressions are interpreted, not compiled, and nothing is loaded.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F"];
const SHADES = ["#9ecae1", "#4292c6", "#08519c", "#41ab5d", "#00441b"];
const DARK_SHADES = ["#c6dbef", "#6baed6", "#2f86d0", "#74c476", "#d9f0a3"];
const CUTS = { top: "#D55E00", bottom: "#0072B2", random: "#7F7F7F" };
const NOTHING = { load: () => Promise.reject(new Error("nothing is loaded")), sanitize: () => Promise.reject(new Error("nothing is loaded")) };
const drawn = new Map(); // holder -> function that draws it again

const dark = () => getComputedStyle(document.documentElement).getPropertyValue("color-scheme").trim() === "dark" ||
  (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

function config() {
  const ink = getComputedStyle(document.body).color;
  const line = dark() ? "#4a4f57" : "#d9dde3";
  const text = { labelColor: ink, titleColor: ink, labelFont: "system-ui, sans-serif", titleFont: "system-ui, sans-serif", labelFontSize: 11, titleFontSize: 11, titleFontWeight: 500, labelLimit: 260 };
  return {
    background: null, font: "system-ui, sans-serif", view: { stroke: null },
    axis: { ...text, gridColor: line, domainColor: line, tickColor: line }, legend: { ...text, symbolLimit: 60, titleLimit: 0 }, header: { ...text, labelFontSize: 12, labelFontWeight: 600 },
    title: { color: ink },
  };
}

const tip = make("div", { id: "tip", role: "tooltip", hidden: true });

function tooltip(handler, event, item, value) {
  if (value === null || value === undefined || value === "") {
    tip.hidden = true;
    return;
  }
  const pairs = typeof value === "object" ? Object.entries(value) : [["", value]];
  tip.replaceChildren(...pairs.map(([key, text]) => make("div", {}, make("b", { text: key }), make("span", { text: String(text) }))));
  tip.hidden = false;
  const right = event.clientX + 14 + tip.offsetWidth > document.documentElement.clientWidth;
  tip.style.left = `${event.pageX + (right ? -14 - tip.offsetWidth : 14)}px`;
  tip.style.top = `${event.pageY + 14}px`;
}

// Draws what `spec()` gives now, and again when light turns dark or the window changes.
async function picture(holder, spec, label) {
  const draw = async () => {
    holder.view?.finalize();
    const compiled = vegaLite.compile({ $schema: "https://vega.github.io/schema/vega-lite/v6.json", ...spec() }, { config: config() }).spec;
    const runtime = vega.parse(compiled, null, { ast: true });
    holder.view = new vega.View(runtime, { renderer: "svg", expr: vega.expressionInterpreter, loader: NOTHING, hover: true, tooltip, logLevel: vega.Error });
    holder.view.initialize(holder).description(label);
    await holder.view.runAsync();
  };
  drawn.set(holder, draw);
  await draw();
}

const redraw = () => Promise.all([...drawn].filter(([holder]) => holder.isConnected).map(([, draw]) => draw()));
const interval = (point) => ("low" in point ? `[${number(point.low, 1)}, ${number(point.high, 1)}]` : "none");
const TIPS = (...names) => names.map((name) => ({ field: name, type: "nominal" }));

function overviewSpec(data, width) {
  const points = data.points.map((point) => ({ ...point, Method: point.method, Budget: point.budget === "full" ? "all positions" : point.budget, Score: `${number(point.mean, 1)} %`, Interval: interval(point), Samples: number(point.n), low: point.low ?? point.mean, high: point.high ?? point.mean }));
  const full = data.full;
  const methods = data.methods.filter((name) => name !== full);
  const budgets = [...data.budgets, "all positions"].filter((budget) => points.some((point) => point.Budget === budget && point.method !== full));
  const benchmarks = [...new Set(points.map((point) => point.benchmark))];
  const middle = budgets.filter((budget) => budget !== "all positions");
  for (const point of points) point.offset = point.Budget === "all positions" ? middle[Math.floor(middle.length / 2)] : point.Budget;
  const shades = dark() ? DARK_SHADES : SHADES;
  const colours = budgets.map((budget, place) => (budget === "all positions" ? "#D55E00" : shades[place % shades.length]));
  const y = { field: "method", type: "nominal", sort: methods, title: null, axis: { grid: true, ticks: false, domain: false } };
  const x = { type: "quantitative", scale: { domain: [0, 100] } };
  const colour = { field: "Budget", type: "nominal", sort: budgets, scale: { domain: budgets, range: colours }, legend: { orient: "top", title: "KV slots per head, or share of the prompt" } };
  const offset = { field: "offset", type: "nominal", sort: middle, scale: { domain: middle.length ? middle : [null] } };
  const names = 6.3 * Math.min(42, Math.max(...methods.map((name) => name.length), 4));
  const others = { filter: { not: { field: "method", equal: full } } };
  const own = { filter: { field: "method", equal: full } };
  return {
    data: { values: points },
    facet: { column: { field: "benchmark", type: "nominal", title: null, header: { labelOrient: "top" } } },
    spec: {
      width: Math.max(160, Math.floor((width - 30 - names) / benchmarks.length) - 24), height: { step: 8 },
      layer: [
        { transform: [own], mark: { type: "rect", opacity: 0.12 }, encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, color: { value: "#888" } } },
        { transform: [own], mark: { type: "rule", strokeDash: [5, 3], size: 1.5 }, encoding: { x: { ...x, field: "mean", title: "Average score (%)" }, color: { value: config().title.color }, tooltip: TIPS("Method", "Score", "Interval", "Samples") } },
        { transform: [others], mark: { type: "rule", size: 1.2 }, encoding: { y, yOffset: offset, x: { ...x, field: "low", title: "Average score (%)" }, x2: { field: "high" }, color: colour } },
        { transform: [others], mark: { type: "circle", size: 34, opacity: 1 }, encoding: { y, yOffset: offset, x: { ...x, field: "mean" }, color: colour, tooltip: TIPS("Method", "Budget", "Score", "Interval", "Samples") } },
      ],
    },
  };
}

// Score against slots; the chosen methods in colour, the others in grey.
function curvesSpec(points, chosen, full, width) {
  const colours = chosen.map((_, place) => COLOURS[place % COLOURS.length]);
  const values = points.map((point) => ({ ...point, Method: point.method, Budget: point.budget, Score: `${number(point.mean, 1)} %`, Interval: interval(point), Samples: number(point.n), low: point.low ?? point.mean, high: point.high ?? point.mean, chosen: chosen.includes(point.method) }));
  const whole = values.filter((point) => point.method === full);
  const lines = values.filter((point) => point.method !== full && point.slots !== null);
  const x = { field: "slots", type: "quantitative", scale: { type: "log", nice: false, padding: 12 }, title: "KV slots per head", axis: { values: [...new Set(lines.map((point) => point.slots))], format: "d", labelOverlap: true } };
  const y = { field: "mean", type: "quantitative", scale: { domain: [0, 100] }, title: "Score (%)" };
  const colour = { field: "method", type: "nominal", scale: { domain: chosen, range: colours }, legend: null };
  const tips = TIPS("Method", "Budget", "Score", "Interval", "Samples");
  return {
    width: Math.max(260, width - 70), height: 340,
    layer: [
      { data: { values: whole }, mark: { type: "rule", strokeDash: [5, 3], size: 1.5 }, encoding: { y: { ...y }, color: { value: config().title.color }, tooltip: TIPS("Method", "Score", "Interval", "Samples") } },
      { data: { values: lines.filter((point) => !point.chosen) }, mark: { type: "line", size: 1, opacity: 0.35 }, encoding: { x, y, detail: { field: "method", type: "nominal" }, color: { value: "#999" }, tooltip: TIPS("Method") } },
      { data: { values: lines.filter((point) => point.chosen) }, mark: { type: "rule", size: 1, opacity: 0.6 }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: colour } },
      { data: { values: lines.filter((point) => point.chosen) }, mark: { type: "line", size: 2 }, encoding: { x, y, color: colour, tooltip: TIPS("Method") } },
      { data: { values: lines.filter((point) => point.chosen) }, mark: { type: "point", filled: true, size: 50, opacity: 1 }, encoding: { x, y, color: colour, tooltip: tips } },
    ],
  };
}

function headsSpec(entry, width) {
  const values = entry.scores.flatMap((row, layer) => row.map((score, head) => ({ layer, head, score, Layer: layer, "KV head": head, Score: number(score, 4) })));
  const layers = entry.scores.length;
  const step = Math.max(8, Math.min(30, Math.floor((width - 130) / layers)));
  return {
    data: { values }, width: { step }, height: { step: Math.max(step, 14) },
    mark: { type: "rect", stroke: null },
    encoding: {
      x: { field: "layer", type: "ordinal", title: "Layer", axis: { labelAngle: 0, labelOverlap: true } },
      y: { field: "head", type: "ordinal", title: "KV head" },
      color: { field: "score", type: "quantitative", scale: { scheme: "cividis", zero: false }, legend: { title: "head score", gradientLength: 90 } },
      tooltip: TIPS("Layer", "KV head", "Score"),
    },
  };
}

function maskingSpec(points, width) {
  const values = points.map((point) => ({ ...point, Heads: `${point.heads} of ${point.of}, ${point.cut}`, Score: `${number(point.score, 1)} %`, Interval: interval(point), low: point.low ?? point.score, high: point.high ?? point.score }));
  const colour = { field: "cut", type: "nominal", scale: { domain: Object.keys(CUTS), range: Object.values(CUTS) }, legend: { title: "without the prompt: the heads with", orient: "top", labelExpr: "{'top': 'the highest scores', 'bottom': 'the lowest scores', 'random': 'random places'}[datum.label]" } };
  const x = { field: "heads", type: "quantitative", title: `Heads that see only the window (of ${points[0].of})`, axis: { tickMinStep: 1 } };
  const y = { type: "quantitative", scale: { domain: [0, 100] }, title: "Score (%)" };
  const full = points.find((point) => point.full !== null && point.full !== undefined);
  const layer = [
    { mark: { type: "rule", size: 1.2, opacity: 0.6 }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: colour } },
    { mark: { type: "line", size: 2 }, encoding: { x, y: { ...y, field: "score" }, color: colour } },
    { mark: { type: "point", filled: true, size: 46, opacity: 1 }, encoding: { x, y: { ...y, field: "score" }, color: colour, tooltip: TIPS("Heads", "Score", "Interval") } },
  ];
  if (full) layer.unshift({ data: { values: [{ full: full.full, Score: `${number(full.full, 1)} %`, Heads: "none" }] }, mark: { type: "rule", strokeDash: [5, 3] }, encoding: { y: { ...y, field: "full" }, color: { value: config().title.color }, tooltip: TIPS("Heads", "Score") } });
  return { data: { values }, width: Math.max(260, Math.min(640, width - 70)), height: 260, layer };
}
