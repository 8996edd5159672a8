// Puts the page together. Each section of the template is filled where the run has something for it.
const data = JSON.parse(document.getElementById("data").textContent);
const into = (id) => document.querySelector(`#${id} > .content`);
const width = (holder) => holder.clientWidth || 900;
document.body.append(tip);

function fillOverview(holder) {
  if (!data.finished) holder.append(make("p", { class: "warning", text: "This run is not finished: the numbers are those of the records so far." }));
  holder.append(make("dl", { class: "facts" }, ...data.facts.map(([key, text]) => make("div", {}, make("dt", { text: key }), make("dd", { text })))));
  holder.append(...data.found.map((text) => make("p", { text })));
  if (data.pictures.overview.points.length) {
    const box = make("div", { class: "picture" });
    holder.append(box);
    picture(box, () => overviewSpec(data.pictures.overview, width(box)), "Average score of every method at each budget");
  }
  if (data.overview) holder.append(make("details", { class: "fold", open: true }, make("summary", { text: "The same as a table" }), plainTable(data.overview), notes(data.overview.notes)));
}

function fillVerdicts(holder) {
  const { claims, checks } = data;
  holder.append(...claims.sentences.map((text) => make("p", { text })));
  holder.append(markVerdicts(plainTable(claims), claims.columns.indexOf("Verdict")), notes(claims.notes) ?? "");
  if (checks) holder.append(markVerdicts(plainTable(checks), checks.columns.indexOf("Verdict")), make("details", { class: "fold" }, make("summary", { text: "How these are judged" }), notes(checks.notes)));
}

function fillTable(id, name) {
  const table = data.tables[name];
  if (!table) return;
  const holder = make("div", {});
  into(id).append(make("h3", { text: table.title }), holder);
  sortableTable(holder, table.columns, table.rows);
  const lines = notes(table.notes);
  if (lines) into(id).append(make("details", { class: "fold" }, make("summary", { text: "Notes" }), lines));
}

function fillCurves(holder) {
  const points = data.pictures.curves;
  const groups = [...new Set(points.map((point) => JSON.stringify([point.benchmark, point.task])))];
  const { full, coloured } = data.pictures.overview;
  const sized = (name) => points.some((point) => point.method === name && point.slots !== null && name !== full);
  const methods = data.pictures.overview.methods.filter(sized);
  if (!methods.length) return;
  let group = 0;
  let chosen = coloured.filter(sized).slice(0, 6);
  const box = make("div", { class: "picture" });
  const draw = () => picture(box, () => curvesSpec(points.filter((point) => JSON.stringify([point.benchmark, point.task]) === groups[group]), chosen, full, width(box)), "Score against KV budget");
  const chips = methods.map((name) => make("button", { type: "button", class: "chip", text: name, onclick: () => {
    chosen = chosen.includes(name) ? chosen.filter((other) => other !== name) : [...chosen, name].slice(-COLOURS.length);
    paint();
    draw();
  } }));
  const paint = () => chips.forEach((chip, at) => {
    const place = chosen.indexOf(methods[at]);
    chip.setAttribute("aria-pressed", String(place >= 0));
    chip.style.setProperty("--chip", place >= 0 ? COLOURS[place % COLOURS.length] : "transparent");
  });
  holder.append(make("h3", { text: "Score against KV budget" }),
    make("div", { class: "controls" }, select("Task", groups.map((key, at) => [at, JSON.parse(key).join(" / ")]), group, (value) => { group = Number(value); draw(); })),
    make("div", { class: "chips", role: "group", "aria-label": "Methods in colour" }, ...chips), box);
  paint();
  draw();
}

function fillHeads(holder) {
  const { heads, masking } = data.pictures;
  if (heads.length) {
    let entry = heads[0];
    const box = make("div", { class: "picture" });
    const draw = () => picture(box, () => headsSpec(entry, width(box)), "Head scores by layer and KV head");
    holder.append(make("h3", { text: "Head scores" }), make("div", { class: "controls" }, select("Task", heads.map(({ task }, at) => [at, task]), 0, (at) => { entry = heads[at]; draw(); })), box,
      make("p", { class: "notes", text: "Sliced Shapley values: only their order inside a task speaks; each task is on its own scale." }));
    draw();
  }
  if (masking.length) {
    const tasks = [...new Set(masking.map((point) => point.task))];
    let task = tasks[0];
    const box = make("div", { class: "picture" });
    const draw = () => picture(box, () => maskingSpec(masking.filter((point) => point.task === task), width(box)), "Score over the number of masked heads");
    holder.append(make("h3", { text: "Masking heads" }), make("div", { class: "controls" }, select("Task", tasks.map((name) => [name, name]), task, (value) => { task = value; draw(); })), box);
    draw();
  }
}

function fillAbout(holder) {
  holder.append(make("details", { class: "fold" }, make("summary", { text: "Specification" }),
    make("table", { class: "plain spec" }, make("tbody", {}, ...data.spec.map(([key, text]) => make("tr", {}, make("th", { scope: "row", class: "left", text: key }), make("td", { class: "left", text })))))));
  holder.append(make("p", { class: "notes", text: "This page holds all that it shows and loads nothing from elsewhere. Drawn with Vega-Lite (BSD-3-Clause) and Tabulator (MIT)." }));
}

const later = window.requestIdleCallback ?? ((work) => setTimeout(work, 1));
const fills = [
  () => fillOverview(into("overview")),
  () => { page.samples = sampleBrowser(into("samples"), data.samples, data.beside); },
  () => fillVerdicts(into("verdicts")),
  () => { fillCurves(into("scores")); fillTable("scores", "scores"); },
  () => fillTable("differences", "differences"),
  () => fillTable("memory", "memory"),
  () => fillTable("latency", "latency"),
  () => into("heads") && fillHeads(into("heads")),
  () => fillAbout(into("about")),
];
const page = {};
function step(at) {
  if (at === fills.length) {
    document.documentElement.dataset.ready = "yes";
    performance.mark("ready");
    return;
  }
  fills[at]();
  setTimeout(() => step(at + 1), 0); // between two, the browser answers its user
}
step(0);

document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let resized;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(redraw, 200); });
