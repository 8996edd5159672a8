// Tables that sort and filter (Tabulator), and plain ones. Cells and heads are elements made here, never markup.
const TALL = 24; // rows from which a table scrolls and draws only what is seen

function cellText(column, value) {
  if (column.kind === "number") return number(value, column.digits, column.sign);
  return value === null || value === undefined ? "—" : value;
}

const COMPARE = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };

// "50" or ">= 50" at least, "< 20" below; nothing that is no number hides a row.
function numberFilter(wanted, value) {
  const found = /^\s*(<=|>=|<|>|=)?\s*([+-−]?\d+(?:\.\d+)?)\s*$/.exec(wanted);
  if (!found) return true;
  return value !== null && value !== undefined && COMPARE[found[1] ?? ">="](value, Number(found[2].replace("−", "-")));
}

function headFilter(column, rows) {
  if (column.kind === "choice" || column.kind === "budget") {
    const places = new Map(rows.map((row) => [row[column.field], row.place ?? 0]));
    const values = [...places.keys()].filter((value) => value !== null && value !== undefined);
    if (column.kind === "budget") values.sort((a, b) => places.get(a) - places.get(b));
    return (cell, onRendered, success) => {
      const options = [["", "all"], ...values.map((value) => [value, value])];
      const control = make("select", { "aria-label": `Filter ${column.title}` }, ...options.map(([key, text]) => make("option", { value: key, text })));
      control.addEventListener("change", () => success(control.value));
      control.addEventListener("click", (event) => event.stopPropagation());
      return control;
    };
  }
  return (cell, onRendered, success) => {
    const placeholder = column.kind === "number" ? "≥" : "contains";
    const control = make("input", { type: "search", placeholder, "aria-label": `Filter ${column.title}` });
    control.addEventListener("input", () => success(control.value));
    control.addEventListener("click", (event) => event.stopPropagation());
    return control;
  };
}

function filterOf(column) {
  if (column.kind === "number") return numberFilter;
  if (column.kind === "choice" || column.kind === "budget") return (wanted, value) => wanted === String(value);
  return (wanted, value) => String(value ?? "").toLowerCase().includes(wanted.toLowerCase());
}

function sorterOf(column) {
  if (column.kind === "number") return (a, b) => a - b;
  if (column.kind === "budget") return (a, b, rowA, rowB) => rowA.getData().place - rowB.getData().place;
  return (a, b) => String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortableTable(holder, columns, rows, options = {}) {
  const titleButton = (column) => () => make("button", { type: "button", class: "sort", text: column.title });
  const { filters = true, height, ...more } = options;
  const values = (column) => new Set(rows.map((row) => row[column.field]));
  columns = columns.filter((column) => column.field !== "benchmark" || values(column).size > 1);
  const tall = rows.length > TALL;
  return new Tabulator(holder, {
    data: rows,
    layout: "fitDataFill",
    height: tall ? (height ?? "34rem") : undefined,
    renderVertical: tall ? "virtual" : "basic",
    placeholder: "No row fits these filters",
    columnHeaderSortMulti: true,
    headerSortClickElement: "header",
    resizableColumns: "header",
    columns: columns.map((column) => ({
      title: column.title,
      field: column.field,
      titleFormatter: titleButton(column),
      formatter: (cell) =>
        column.draw
          ? column.draw(cell.getData(), cell.getValue())
          : make("span", { text: cellText(column, cell.getValue()) }),
      sorter: sorterOf(column),
      sorterParams: { alignEmptyValues: "bottom" },
      hozAlign: column.kind === "number" || column.kind === "budget" ? "right" : "left",
      headerHozAlign: column.kind === "number" || column.kind === "budget" ? "right" : "left",
      headerFilter: filters && !column.fixed ? headFilter(column, rows) : false,
      headerFilterFunc: filterOf(column),
      headerFilterLiveFilter: false,
      headerFilterEmptyCheck: (value) => value === "" || value === null || value === undefined,
      widthGrow: column.grow ?? 1,
      minWidth: column.width ?? 70,
      width: column.exact,
      variableHeight: column.field === "answer",
      cssClass: column.kind === "number" ? "number" : "",
    })),
    ...more,
  });
}

function notes(lines) {
  return lines.length ? make("div", { class: "notes" }, ...lines.map((text) => make("p", { text }))) : null;
}

// A table of the report, as it prints there.
function plainTable(table) {
  const side = (place) => (place < table.left ? "left" : null);
  const head = make("tr", {}, ...table.columns.map((text, place) => make("th", { scope: "col", text, class: side(place) })));
  const over = table.heads.some(([text]) => text)
    ? make("tr", {}, ...table.heads.map(([text, span]) => make("th", { scope: "colgroup", colspan: span, text, class: "over" })))
    : null;
  const cell = ([text, detail, look], place) =>
    make(place ? "td" : "th", { class: side(place), scope: place ? null : "row" },
      make(look === "bold" ? "strong" : look === "underline" ? "u" : "span", { text }),
      detail ? make("small", { text: ` ${detail}`, class: detail.length < 30 ? "short" : null }) : null);
  const body = table.rows.map((row) => make("tr", {}, ...row.map(cell)));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title },
    make("table", { class: "plain" }, make("caption", { text: table.title }), make("thead", {}, over, head), make("tbody", {}, ...body)));
}

// Verdicts stand out by their words and their colour.
function markVerdicts(holder, column) {
  for (const row of holder.querySelectorAll("tbody tr")) {
    const word = row.children[column].firstChild;
    word.classList.add("verdict", word.textContent.toLowerCase().replace(/[^a-z]+/g, "-"));
  }
  return holder;
}
