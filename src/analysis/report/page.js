"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector) => document.querySelector(selector);
const AT_FIRST = 300; // rows of a table that are drawn before anyone asks for all
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const runs = data.runs.rows.map((row) => Object.fromEntries(row.map((value, i) => [data.runs.columns[i], value])));
const runOf = Object.fromEntries(runs.map((run) => [run.run_id, run]));

addEventListener("error", (event) => {
  $("#problem").hidden = false;
  $("#problem").textContent = `This page has a fault: ${event.message}`;
});

// ---- values as texts

const dash = (value) => value === null || value === undefined || value === "" ? "-" : String(value);
const short = (value) => value === null || value === undefined ? "-" : Number(value.toPrecision(4)).toLocaleString("en");
const count = (value) => value === null ? "-" : value.toLocaleString("en");
const isShare = (cell, split) => (split === "validation" ? cell.validation_unit : cell.unit) === "share";
const scaled = (value, share) => value === null || value === undefined ? null : share ? 100 * value : value;
const scoreText = (value, share) => value === null ? "-" : share ? `${(100 * value).toFixed(1)} %` : value.toFixed(4);
// A line is a method, or a method on a target set where there are several; each has a look to itself.
const severalTargets = new Set(data.cells.map((cell) => cell.target).filter((target) => target !== null)).size > 1;
const lineOf = (cell) => [cell.adapter, severalTargets && cell.target].filter(Boolean).join(", ");
const LINES = [...new Set(data.cells.map(lineOf))].sort();
const look = (cell) => {
  const index = LINES.indexOf(lineOf(cell)), again = Math.floor(index / data.colors.length);
  return { color: data.colors[index % data.colors.length], symbol: SYMBOLS[(index + again) % SYMBOLS.length],
    dash: DASHES[again % DASHES.length] };
};

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// ---- filters: one set for everything on the page

const selects = [...document.querySelectorAll("#filters select")];

function fillFilters() {
  for (const select of selects) {
    const values = [...new Set(runs.map((run) => run[select.dataset.key]).filter((value) => value !== null))].sort();
    select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    select.parentElement.hidden = values.length < 2;
    select.addEventListener("change", draw);
  }
  $("#text").addEventListener("input", draw);
  $("#clear").addEventListener("click", () => {
    for (const select of selects) select.value = "";
    $("#text").value = "";
    draw();
  });
}

const chosen = (row) => selects.every((select) => !select.value || dash(row[select.dataset.key]) === select.value);
const words = () => $("#text").value.toLowerCase().split(/\s+/).filter(Boolean);
const hasWords = (text) => words().every((word) => text.toLowerCase().includes(word));

// ---- tables: sorted by a click on a heading, by numbers where a column holds numbers

function number(text) {
  const match = String(text).replaceAll("**", "").replaceAll(",", "").match(/^[<+]?\s*(-?\d+(\.\d+)?(e[-+]?\d+)?)/i);
  return match ? Number(match[1]) : null;
}

function compare(first, second) {
  const [a, b] = [number(first), number(second)];
  if (a !== null && b !== null && a !== b) return a - b;
  return String(first).localeCompare(String(second), "en", { numeric: true });
}

class SortedTable {
  constructor(parent, columns) {
    Object.assign(this, { columns, rows: [], sort: null, descending: false, all: false });
    const table = element("table"), head = element("thead"), line = element("tr");
    columns.forEach((column, index) => {
      const cell = element("th", undefined, { class: column.words ? "words" : "", "aria-sort": "none", scope: "col" });
      const button = element("button", column.name, { type: "button", "data-column": column.name });
      button.addEventListener("click", () => this.sortBy(index));
      cell.append(button);
      line.append(cell);
    });
    head.append(line);
    this.body = element("tbody");
    table.append(head, this.body);
    const scroll = element("div", undefined, { class: "scroll", tabindex: "0" });
    scroll.append(table);
    this.more = element("button", "", { type: "button", class: "more" });
    this.more.addEventListener("click", () => { this.all = true; this.draw(); });
    parent.append(scroll, this.more);
    this.head = line;
  }

  sortBy(index) {
    this.descending = this.sort === index ? !this.descending : !this.columns[index].words;
    this.sort = index;
    [...this.head.children].forEach((cell, position) =>
      cell.setAttribute("aria-sort", position !== index ? "none" : this.descending ? "descending" : "ascending"));
    this.draw();
  }

  show(rows) { this.rows = rows; this.draw(); }

  draw() {
    const rows = [...this.rows];
    if (this.sort !== null) {
      const missing = (row) => row.cells[this.sort] === "-";
      rows.sort((a, b) => missing(a) - missing(b)
        || (this.descending ? -1 : 1) * compare(a.cells[this.sort], b.cells[this.sort]));
    }
    const drawn = this.all ? rows : rows.slice(0, AT_FIRST);
    this.body.replaceChildren(...drawn.map((row) => this.line(row)));
    this.more.hidden = drawn.length === rows.length;
    this.more.textContent = `Show all ${rows.length.toLocaleString("en")} rows`;
  }

  line(row) {
    const line = element("tr", undefined, row.lost ? { class: "lost" } : {});
    row.cells.forEach((text, index) => {
      const verdict = this.columns[index].name === "verdict" ? ` ${text.replaceAll(" ", "-")}` : "";
      const cell = element("td", undefined, this.columns[index].words ? { class: `words${verdict}`, title: text } : {});
      text.split("**").forEach((part, position) => cell.append(position % 2 ? element("b", part) : part));
      line.append(cell);
    });
    return line;
  }
}

// ---- the runs

const RUN_TABLE = [
  ["state", true, (run) => run.state], ["task", true, (run) => run.task], ["model", true, (run) => run.model],
  ["adapter", true, (run) => run.adapter], ["rank", false, (run) => dash(run.rank)],
  ["target", true, (run) => dash(run.target)], ["seed", false, (run) => dash(run.seed)],
  ["lr", false, (run) => dash(run.lr)], ["trainable params (w/o head)", false, (run) => count(run.body_trained)],
  ["validation", false, (run) => dash(run.validation?.toFixed(4))], ["test", false, (run) => dash(run.test?.toFixed(4))],
  ["metric", true, (run) => dash(run.metric)], ["forgetting", false, (run) => dash(run.forgetting?.toFixed(3))],
  ["training s", false, (run) => dash(run.train_seconds?.toFixed(1))],
  ["memory MB", false, (run) => dash(run.memory_bytes && (run.memory_bytes / 1e6).toFixed(1))],
  ["what for", true, (run) => run.trial ? "trial" : "result"], ["precision", true, (run) => dash(run.precision)],
  ["protocol", true, (run) => dash(run.protocol)], ["device", true, (run) => dash(run.device)],
  ["code", true, (run) => dash(run.git_revision?.slice(0, 8))],
  ["doubtful", true, (run) => run.doubts || "-"], ["run", true, (run) => run.run_id], ["why not finished", true, (run) => dash(run.reason)],
];
const nested = (run) => run.trained_rank !== null && run.trained_rank !== run.rank;
const runRows = runs.map((run) => {
  const cells = RUN_TABLE.map(([, , text]) => text(run));
  return { run, cells, text: cells.join(" "), lost: run.state !== "done" };
});

// ---- figures

function plot(section, traces, layout) {
  const area = section instanceof Element ? section : $(`#${section} .plot`);
  if (!traces.length) {
    Plotly.purge(area);
    area.classList.add("empty");
    area.textContent = "Nothing to draw of what is chosen above.";
    return;
  }
  if (area.classList.contains("empty")) {
    area.classList.remove("empty");
    area.textContent = "";
  }
  const common = { height: 460, margin: { l: 64, r: 16, t: 16, b: 56 }, hovermode: "closest", font: { size: 13 },
    legend: { orientation: "v" }, showlegend: true, plot_bgcolor: "#fff" };
  Plotly.react(area, traces, { ...common, ...layout }, { displaylogo: false, responsive: true });
}

const axis = (title, more = {}) => ({ title: { text: title }, gridcolor: "#eceff2", zeroline: false, ...more });
const named = (cell) => [cell.adapter, cell.rank === null ? "" : `r ${cell.rank}`, cell.target].filter(Boolean).join(" ");

function hover(cell) {
  const runsOf = cell.run_ids.map((id) => runOf[id]).filter((run) => run?.state === "done" && !nested(run));
  const text = (value) => scoreText(value, isShare(cell, cell.split));
  const scores = runsOf.map((run) => text(run[cell.split])).join(", ");
  return [
    `<b>${named(cell)}</b> on ${cell.task}, ${cell.model}`, cell.differs,
    `${cell.split} ${text(cell.mean)}`
      + (cell.low === null ? "" : ` (95 %: ${text(cell.low)} to ${text(cell.high)})`),
    `runs: ${scores || "-"}`, `lr ${dash(cell.lr)}, scaling ${dash(cell.scaling)}, ${cell.tuning}`,
    `${count(cell.body_trained)} trained without the head`,
    `${short(cell.train_seconds)} s of training` + (cell.memory_bytes ? `, ${short(cell.memory_bytes / 1e6)} MB` : ""),
  ].filter(Boolean).join("<br>");
}

const YS = {
  mean: { label: "score", value: (cell) => cell.mean, ends: (cell) => [cell.low, cell.high], split: (cell) => cell.split },
  validation_mean: { label: "validation score", value: (cell) => cell.validation_mean,
    ends: (cell) => [cell.validation_low, cell.validation_high], split: () => "validation" },
  forgetting_mean: { label: "forgetting, nats per token", value: (cell) => cell.forgetting_mean, split: () => null,
    ends: (cell) => cell.forgetting_std === null ? [null, null]
      : [cell.forgetting_mean - cell.forgetting_std, cell.forgetting_mean + cell.forgetting_std] },
};

function yLabel(cells, key) {
  if (key === "forgetting_mean") return YS[key].label;
  const names = [...new Set(cells.map((cell) => {
    const split = YS[key].split(cell), metric = split === "validation" ? cell.validation_metric : cell.metric;
    return `${split} ${metric}${isShare(cell, split) ? ", %" : ""}`;
  }))];
  return names.join(" or ");
}

const forests = data.forests.map((forest) => {
  const several = data.forests.length > 1 ? `${forest.model} on ${forest.task}: ` : "", area = element("div", undefined, { class: "plot" });
  $("#forest").append(element("h3", `${several}${forest.score}, difference to ${forest.baseline}`, { class: "plain" }), area);
  const without = forest.rows.filter((row) => row.difference === null).map((row) => `${row.cell} (${row.why_not})`);
  if (without.length) $("#forest").append(element("p", `Not comparable: ${without.join("; ")}.`, { class: "note" }));
  return { ...forest, area };
});

// The range of most values, where a few far off would press all others together; undefined where none do.
function focus(values) {
  const sorted = [...values, 0].sort((one, other) => one - other), middle = sorted[Math.floor(sorted.length / 2)];
  const lowest = sorted[0], highest = sorted[sorted.length - 1];
  const low = Math.max(lowest, highest - 3 * (highest - middle)), high = Math.min(highest, lowest + 3 * (middle - lowest));
  if (!(high > low) || highest - lowest < 1.5 * (high - low)) return undefined;
  return [low - 0.12 * (high - low), high + 0.12 * (high - low)];
}

function drawForest(cells) {
  const shown = new Set(cells);
  for (const forest of forests) {
    const rows = forest.rows.filter((row) => row.difference !== null && shown.has(data.cells[row.index]));
    const traces = Object.entries(data.verdicts).map(([verdict, color]) => {
      const members = rows.filter((row) => row.verdict === verdict), text = (value) => value.toFixed(forest.unit === "points" ? 1 : 3);
      const sizes = (end) => members.map((row) => row[end] === null ? 0 : Math.abs(row[end] - row.difference));
      return {
        name: verdict, mode: "markers", type: "scatter", x: members.map((row) => row.difference), y: members.map((row) => row.cell),
        marker: { color, size: 8, symbol: verdict === "better" ? "circle" : verdict === "worse" ? "square" : "diamond-open" },
        error_x: { type: "data", symmetric: false, thickness: 1.5, width: 0, color, array: sizes("high"), arrayminus: sizes("low") },
        text: members.map((row) => `<b>${row.cell}</b> ${row.verdict}: ${text(row.difference)} ${forest.unit}`
          + (row.low === null ? "" : ` (95 %: ${text(row.low)} to ${text(row.high)})`)
          + `<br>p ${short(row.p_value)}, after Holm ${short(row.p_holm)}, over ${row.over}`),
        hoverinfo: "text",
      };
    }).filter((trace) => trace.x.length);
    const range = focus(rows.map((row) => row.difference)), direction = forest.higher_is_better ? "right" : "left";
    plot(forest.area, traces, { height: 130 + 22 * rows.length,
      xaxis: axis(`${forest.unit}, ${direction} is better${range ? "; some rows lie outside: click twice to see all" : ""}`,
        { zeroline: true, zerolinecolor: "#000", range }),
      yaxis: axis("", { type: "category", automargin: true, categoryorder: "array",
        categoryarray: rows.map((row) => row.cell).reverse(), range: [-0.6, rows.length - 0.4] }) });
  }
}

function drawCost(cells) {
  const [x, y] = [$("#x").value, $("#y").value], cost = data.costs[x];
  const drawn = cells.filter((cell) => cell[x] !== null && YS[y].value(cell) !== null);
  const hasFront = y === "mean";
  const traces = [...groupBy(drawn, lineOf)].map(([line, members]) => {
    const style = look(members[0]);
    const split = (cell) => YS[y].split(cell);
    const scale = (cell, value) => scaled(value, split(cell) !== null && isShare(cell, split(cell)));
    const ups = members.map((cell) => scale(cell, YS[y].value(cell)));
    const ends = members.map((cell) => YS[y].ends(cell).map((end) => scale(cell, end)));
    return {
      name: line, mode: "markers", type: "scatter", x: members.map((cell) => cell[x] / cost.unit), y: ups,
      text: members.map(hover), hoverinfo: "text",
      error_y: { type: "data", symmetric: false, thickness: 1, width: 0, color: style.color,
        array: ends.map(([, high], i) => high === null ? 0 : high - ups[i]),
        arrayminus: ends.map(([low], i) => low === null ? 0 : ups[i] - low) },
      marker: { symbol: members.map((cell) => style.symbol + (hasFront && !cell.pareto_front.includes(x) ? "-open" : "")),
        color: style.color, size: members.map((cell) => 8 + 1.5 * Math.log2(cell.rank ?? 1)), line: { width: 1.5 } },
    };
  });
  const log = $("#log").checked && drawn.every((cell) => cell[x] > 0);
  const range = drawn.map((cell) => cell[x]), decades = Math.log10(Math.max(...range) / Math.min(...range));
  const scale = log ? { type: "log", ...(decades > 1.5 ? { dtick: 1, tickformat: "~s" } : {}) } : { type: "linear" };
  plot("cost", traces, { xaxis: axis(cost.label, scale), yaxis: axis(yLabel(drawn, y)) });
}

function groupBy(values, key) {
  const groups = new Map();
  for (const value of values) groups.set(key(value), [...(groups.get(key(value)) ?? []), value]);
  return groups;
}

function drawRanks(cells) {
  const scored = cells.filter((cell) => cell.mean !== null);
  const ranks = [...new Set(scored.map((cell) => cell.rank).filter((rank) => rank !== null))].sort((a, b) => a - b);
  if (ranks.length < 2) { plot("ranks", [], {}); return; }
  const lines = groupBy(scored, (cell) => [cell.task, cell.model, cell.adapter, cell.target, cell.differs].join("\n"));
  const several = (key) => new Set(scored.map((cell) => cell[key]).filter((value) => value !== null)).size > 1;
  const traces = [...lines.values()].map((members) => {
    members.sort((a, b) => a.rank - b.rank || a.lr - b.lr);
    const first = members[0], style = look(first), share = isShare(first, first.split), level = first.rank === null;
    const at = level ? [ranks[0], ranks.at(-1)] : members.map((cell) => cell.rank);
    const cellsAt = level ? [first, first] : members;
    return {
      name: [first.adapter, several("target") && first.target, several("task") && first.task,
        several("model") && first.model, first.differs].filter(Boolean).join(", "),
      mode: level ? "lines" : "lines+markers", x: at, y: cellsAt.map((cell) => scaled(cell.mean, share)),
      text: cellsAt.map(hover), hoverinfo: "text",
      line: { color: style.color, dash: level ? "dash" : style.dash, width: 1.5 },
      marker: { color: style.color, symbol: style.symbol, size: 8 },
      error_y: level ? undefined : { type: "data", symmetric: false, thickness: 1, width: 0, color: style.color,
        array: members.map((cell) => cell.high === null ? 0 : scaled(cell.high - cell.mean, share)),
        arrayminus: members.map((cell) => cell.low === null ? 0 : scaled(cell.mean - cell.low, share)) },
    };
  });
  plot("ranks", traces, { xaxis: axis("rank", { type: "log", tickvals: ranks }), yaxis: axis(yLabel(scored, "mean")) });
}

function drawRates() {
  const text = (trial) => [trial.task, trial.model, named(trial), trial.value].join(" ");
  const selected = (trial) => chosen(trial) && hasWords(text(trial));
  const drawn = data.trials.filter((trial) => trial.validation !== null && selected(trial));
  const lines = groupBy(drawn, (trial) => [trial.task, trial.model, trial.adapter, trial.rank, trial.target].join("\n"));
  const traces = [...lines.values()].map((members) => {
    const first = members[0], style = look(first), share = first.unit === "share";
    return {
      name: named(first), mode: "lines+markers", x: members.map((trial) => trial.value),
      y: members.map((trial) => scaled(trial.validation, share)), line: { color: style.color, width: 1.2 },
      text: members.map((trial) => `<b>${named(trial)}</b><br>${trial.axis} ${trial.value}: ${scoreText(trial.validation, share)}`
        + (trial.seed === null ? "" : `, seed ${trial.seed}`)
        + (trial.chosen ? `<br>chosen${trial.why ? `: ${trial.why}` : trial.at_edge ? ", at the edge of its grid" : ""}` : "")),
      hoverinfo: "text",
      marker: { color: style.color, symbol: members.map((trial) => trial.chosen ? "circle-open" : style.symbol),
        size: members.map((trial) => trial.chosen ? 14 : 6), line: { width: 2 } },
    };
  });
  plot("rates", traces, { xaxis: axis("rate", { type: "log" }), yaxis: axis("validation score") });
}

function drawTraining(shownRuns) {
  const which = Number($("#curve").value);
  const limited = shownRuns.filter((run) => data.curves[run.run_id] && !nested(run)).slice(0, AT_FIRST);
  const traces = limited.map((run) => {
    const points = data.curves[run.run_id].filter((point) => point[which] !== null);
    const first = limited.find((other) => lineOf(other) === lineOf(run)) === run;
    return {
      name: lineOf(run), legendgroup: lineOf(run), showlegend: first, mode: "lines+markers", opacity: 0.7,
      x: points.map((point) => point[0]), y: points.map((point) => point[which]),
      line: { color: look(run).color, width: 1 }, marker: { size: 4 }, hoverinfo: "text",
      text: points.map((point) => `<b>${run.run_id}</b><br>step ${point[0]}: ${point[which].toPrecision(4)}`),
    };
  }).filter((trace) => trace.x.length);
  plot("training", traces, { xaxis: axis("step"), yaxis: axis(which === 1 ? "training loss" : "validation score") });
}

// ---- the page

let runTable;

function draw() {
  const shown = runRows.filter((row) => chosen(row.run) && hasWords(row.text));
  const ids = new Set(shown.map((row) => row.run.run_id));
  const cells = data.cells.filter((cell) => chosen(cell) && cell.run_ids.some((id) => ids.has(id)));
  $("#shown").textContent = `${count(ids.size)} of ${count(Object.keys(runOf).length)} runs`;
  runTable.show(shown);
  drawForest(cells);
  drawCost(cells);
  drawRanks(cells);
  drawRates();
  drawTraining(shown.filter((row) => !row.run.trial || runs.every((run) => run.trial)).map((row) => row.run));
}

function offer(select, kinds, valueOf) {
  const offered = Object.keys(kinds).filter((key) => data.cells.some((cell) => valueOf(key)(cell) !== null));
  $(select).append(...offered.map((key) => new Option(kinds[key].label, key)));
}

function build() {
  document.title = `${data.name}: report`;
  $("#title").textContent = data.name;
  const states = Object.entries(data.states).map(([state, number]) => `${count(number)} ${state}`).join(", ");
  $("#summary").textContent = `${states}; ${data.cells.length} rows in the comparison; ${Object.values(runOf).filter((run) => run.trial).length} of the runs are trials`;
  $("#rates").hidden = !data.trials.length;
  $("#forest").hidden = !forests.length;
  if (data.warnings.length) $("#warnings ul").append(...data.warnings.map((text) => element("li", text)));
  else $("#warnings").hidden = true;
  offer("#x", data.costs, (key) => (cell) => cell[key]);
  offer("#y", YS, (key) => YS[key].value);
  for (const id of ["#x", "#y", "#log", "#curve"]) $(id).addEventListener("change", draw);
  runTable = new SortedTable($("#runs"), RUN_TABLE.map(([name, isWords]) => ({ name, words: isWords })));
  for (const table of data.tables) {
    const block = element("div", undefined, { id: `table-${table.key}` }), isClaims = table.key === "claims";
    if (isClaims) $("#claims").hidden = false;
    else block.append(element("h3", table.title));
    $(isClaims ? "#claims" : "#tables").append(block);
    new SortedTable(block, table.columns).show(table.rows.map((cells) => ({ cells })));
    for (const note of table.notes) block.append(element("p", note, { class: "note" }));
  }
  const columns = Object.keys(data.provenance[0] ?? { runs: 0 });
  new SortedTable($("#provenance"), columns.map((name) => ({ name, words: name !== "runs" })))
    .show(data.provenance.map((row) => ({ cells: columns.map((name) => dash(row[name])) })));
  $("#contents").append(...[...document.querySelectorAll("main section:not([hidden])")].map((section) =>
    element("a", section.querySelector("h2").textContent, { href: `#${section.id}` })));
  fillFilters();
  draw();
}

build();
