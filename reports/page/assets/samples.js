// The browser of samples: a list with filters, and one sample with its prompt, answers and kept tokens.
function sampleBrowser(holder, index, folder) {
  const cells = index.cells;
  const count = index.id.length;
  const methods = [...new Set(cells.map((cell) => cell.method))];
  const full = index.full === null ? "full cache" : cells[index.full].method;
  const last = cells.findLastIndex((cell) => cell.method === "CoKV");
  const state = { cell: last < 0 ? cells.length - 1 : last, task: "", shown: "", low: 0, high: 100, open: null };
  const rows = Array.from({ length: count }, (_, at) => ({ at, task: index.task[at], benchmark: index.benchmark[at], seed: index.seed[at], id: index.id[at], tokens: index.tokens[at], full: index.full === null ? null : index.scores[index.full][at], score: null, shown: index.shown[at] }));
  const setScores = () => rows.forEach((row) => { row.score = index.scores[state.cell][row.at]; });
  setScores();

  const status = make("span", { class: "status", role: "status" });
  const list = make("div", { class: "list" });
  const detail = make("div", { class: "detail", "aria-live": "polite" }, make("p", { class: "hint", text: "Choose a sample to read its prompt, every answer, and which tokens were kept." }));
  let table;

  const fits = (row) => {
    if (state.task && row.task !== state.task) return false;
    if (state.shown === "kept") return Boolean(row.shown);
    if (state.shown === "lost") return row.full !== null && row.score !== null && row.score < row.full;
    if (state.shown === "won") return row.full !== null && row.score !== null && row.score > row.full;
    if (state.shown === "none") return row.score === null;
    return true;
  };
  const inRange = (row) => (state.low <= 0 && state.high >= 100) || (row.score !== null && row.score >= state.low && row.score <= state.high);
  const refilter = () => table.setFilter((row) => fits(row) && inRange(row));
  const rescore = () => {
    setScores();
    table.replaceData(rows).then(refilter);
  };

  const own = (name) => cells.map((cell, at) => [at, cell.budget, cell.method]).filter(([, , method]) => method === name).map(([at, budget]) => [at, budget]);
  const budget = select("KV budget", own(cells[state.cell].method), state.cell, (value) => {
    state.cell = Number(value);
    rescore();
  });
  const controls = make("div", { class: "controls" },
    select("Task", [["", "all tasks"], ...[...new Set(index.task)].map((task) => [task, task])], "", (value) => { state.task = value; refilter(); }),
    select("Method", methods.map((name) => [name, name]), cells[state.cell].method, (name) => {
      const before = cells[state.cell].budget;
      state.cell = (own(name).find(([, text]) => text === before) ?? own(name)[0])[0];
      budget.control.replaceChildren(...own(name).map(([at, text]) => make("option", { value: at, text })));
      budget.control.value = String(state.cell);
      rescore();
    }),
    budget,
    select("Show", [["", "all"], ["lost", "scored below the full cache"], ["won", "scored above the full cache"], ["none", "no score"], ["kept", "with kept tokens"]], "", (value) => { state.shown = value; refilter(); }),
    make("label", { class: "control" }, make("span", { text: "Score from" }), make("input", { type: "number", min: 0, max: 100, value: 0, oninput: (event) => { state.low = Number(event.target.value || 0); refilter(); } })),
    make("label", { class: "control" }, make("span", { text: "to" }), make("input", { type: "number", min: 0, max: 100, value: 100, oninput: (event) => { state.high = Number(event.target.value || 100); refilter(); } })),
    status);

  const columns = [
    { field: "task", title: "Task", kind: "choice", fixed: true },
    { field: "id", title: "Sample", fixed: true, draw: (row) => make("button", { type: "button", class: "open", text: row.id, onclick: () => open(row.at) }) },
    { field: "seed", title: "Seed", kind: "number", digits: 0, fixed: true },
    { field: "tokens", title: "Prompt tokens", kind: "number", digits: 0, fixed: true },
    { field: "full", title: `Score, ${full}`, kind: "number", digits: 1, fixed: true },
    { field: "score", title: "Score, method", kind: "number", digits: 1, fixed: true },
    { field: "shown", title: "Kept tokens", fixed: true, draw: (row) => make("span", { text: row.shown ? "stored" : "" }) },
  ];
  holder.append(
    index.prompts ? make("p", { class: "lead", text: `${number(count)} samples; ${number(index.prompts)} with their prompts stored.` })
      : make("p", { class: "lead", text: `${number(count)} samples. Prompts and kept tokens were not stored in this run; answers and scores are here.` }),
    controls, list, detail);
  table = sortableTable(list, columns, rows, { height: "22rem", index: "at" });
  table.on("dataFiltered", (_, shown) => { status.textContent = `${number(shown.length)} of ${number(count)} samples`; });
  table.on("rowClick", (event, row) => open(row.getData().at));

  async function open(at) {
    state.open = at;
    detail.replaceChildren(make("p", { class: "hint", text: "Reading…" }));
    const [chunk, place] = index.chunk[at];
    let sample;
    try {
      sample = (await loadChunk(chunk, folder))[place];
    } catch (error) {
      detail.replaceChildren(make("p", { class: "warning", text: `This sample could not be read: ${error.message}. Keep ${folder}/ beside the page.` }));
      return;
    }
    if (state.open !== at) return; // another one was chosen meanwhile
    const { parts, answers } = await sampleDetail(at, sample);
    detail.replaceChildren(...parts.filter(Boolean));
    answers(); // a table measures itself, so it has to be in the page
  }

  async function sampleDetail(at, sample) {
    const parts = [make("h3", { text: `${index.benchmark[at]} / ${index.task[at]}: ${index.id[at]}` })];
    parts.push(make("p", { class: "facts-line" },
      make("b", { text: sample.references.length === 1 ? "Reference: " : "References: " }),
      ...sample.references.slice(0, 20).flatMap((text, place) => [make("span", { text: place ? " · " : "" }), longText(text, 200)]),
      sample.references.length ? null : make("span", { text: "none" })));
    if (sample.notes.length) parts.push(make("p", { class: "notes", text: sample.notes.join("; ") }));
    parts.push(promptBox(sample));
    let kept = null;
    if (sample.kept) {
      const box = make("details", { open: true, class: "fold" }, make("summary", { text: "Which tokens each method kept" }));
      try {
        kept = await keptViewer(sample, cells, state.cell);
        box.append(kept.viewer);
      } catch (error) {
        box.append(make("p", { class: "warning", text: `Its kept tokens cannot be read: ${error.message}` }));
      }
      parts.push(box);
    }
    const answers = make("div", {});
    parts.push(make("h4", { text: "Answers" }), sample.kept ? make("p", { class: "notes", text: "A method's name draws what it kept." }) : null, answers);
    const rows = sample.answers.map(([cell, text, why, generated, slots, tokens]) => ({ method: cells[cell].method, budget: cells[cell].budget, place: cell, score: index.scores[cell][at], answer: text ?? "", why, generated, tokens }));
    const draw = () => sortableTable(answers, [
      { field: "method", title: "Method", kind: "choice", width: 170, draw: (row) => (kept?.has(row.place) ? make("button", { type: "button", class: "open", text: row.method }) : make("span", { text: row.method })) },
      { field: "budget", title: "KV budget", kind: "budget" },
      { field: "score", title: "Score", kind: "number", digits: 1 },
      { field: "generated", title: "Tokens", kind: "number", digits: 0 },
      { field: "tokens", title: "Kept, all heads", kind: "number", digits: 0, width: 110 },
      { field: "answer", title: "Answer", grow: 6, width: 320, draw: (row) => (row.why ? make("em", { text: row.why }) : longText(row.answer)) },
    ], rows, { height: "30rem", layout: "fitColumns" }).on("rowClick", (event, row) => kept?.choose(row.getData().place));
    return { parts, answers: () => { kept?.reveal(); draw(); } };
  }

  return { open, table };
}

function promptBox(sample) {
  if (sample.prompt === undefined) return make("p", { class: "notes", text: "The prompt was not stored." });
  const length = sample.prompt.length + (sample.question?.length ?? 0);
  const box = make("details", { class: "fold" }, make("summary", { text: `Prompt (${number(length)} characters)` }));
  box.addEventListener("toggle", () => {
    if (box.childElementCount > 1) return;
    const short = sample.prompt.length <= PART;
    box.append(short ? make("pre", { class: "prompt", dir: "auto", tabindex: "0", text: sample.prompt }) : longText(sample.prompt, 4000));
    if (sample.question !== undefined) box.append(make("p", { class: "notes", text: "Read after the compression:" }), make("pre", { class: "prompt", dir: "auto", text: sample.question }));
  });
  return box;
}
