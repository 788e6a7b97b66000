"use strict";
// Draws the page from its embedded data. Users' texts are inserted into the document as text. For Plotly they
// are escaped, because it interprets some tags in labels.

const page = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const safe = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const unique = (values) => [...new Set(values)];
const shown = (value) => (value === null || value === undefined ? "–" : typeof value === "number" ? String(+value.toPrecision(4)) : String(value));

// Based on Okabe and Ito's palette, distinguishable with common color vision deficiencies; brighter in dark mode.
const COLORS = {
  light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#3B8FC2", "#444444"],
  dark: ["#56B4E9", "#F58A42", "#2FC79A", "#E6A0C8", "#E69F00", "#9AD4F7", "#CCCCCC"],
};
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon", "x", "star-triangle-up"];
// Show names as categories, even if they look like numbers or dates.
const NAMED = {
  xaxis: { type: "category", tickangle: -40, automargin: true },
  yaxis: { type: "category", automargin: true, autorange: "reversed" },
};
const LINES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const BASELINES = { base: ["star", "base model"], local: ["cross", "local only"], central: ["x", "central training"] };

const algorithms = unique(page.conditions.map((row) => row.algorithm)).filter(Boolean);
const settings = unique(page.conditions.filter((row) => row.condition === "personalized").map((row) => row.setting));
const state = { metric: page.metrics[0].key, cell: 0, algorithms: new Set(algorithms) };

const dark = () => document.documentElement.dataset.theme === "dark";
const colorOf = (algorithm) => COLORS[dark() ? "dark" : "light"][algorithms.indexOf(algorithm) % 7];
const cssValue = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const metricNow = () => page.metrics.find((one) => one.key === state.metric);
const inView = (row) => row.place === state.cell && row.metric === state.metric && state.algorithms.has(row.algorithm);

function element(tag, text, attributes = {}) {
  const created = document.createElement(tag);
  if (text !== undefined) created.textContent = text;
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  return created;
}

function fill(select, options, selected) {
  select.replaceChildren(...options.map(([value, text]) => element("option", text, { value })));
  if (selected !== undefined && options.some(([value]) => String(value) === String(selected))) select.value = selected;
}

function layout(x, y, more = {}) {
  const axis = { gridcolor: cssValue("--line"), zerolinecolor: cssValue("--line"), automargin: true };
  const narrow = window.innerWidth < 640;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: cssValue("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 60, r: 15, t: 30, b: 50 }, hovermode: "closest",
    hoverlabel: { align: "left" },
    legend: narrow ? { orientation: "h", y: -0.2, font: { size: 11 } } : { x: 1.02, y: 1, font: { size: 12 } },
    xaxis: { ...axis, title: { text: x } }, yaxis: { ...axis, title: { text: y } }, ...more,
  };
}

function draw(id, traces, chartLayout) {
  const chart = byId(id);
  if (!traces.length) {
    Plotly.purge(chart);
    chart.replaceChildren(element("p", "Not measured, or nothing is selected above.", { class: "empty" }));
    return;
  }
  if (chart.querySelector(".empty")) chart.replaceChildren();
  Plotly.react(chart, traces, chartLayout, { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
}

function table(id, columns, rows) {
  const head = element("tr");
  for (const column of columns) head.append(element("th", column, { scope: "col" }));
  const body = rows.map((row) => {
    const line = element("tr");
    row.forEach((value, number) => line.append(element(number ? "td" : "th", shown(value), number ? {} : { scope: "row" })));
    return line;
  });
  const created = element("table"), top = element("thead"), rest = element("tbody");
  top.append(head);
  rest.append(...body);
  created.append(top, rest);
  byId(id).replaceChildren(created);
}

/** Format a difference with its 95% interval, if it has one. */
function formatDifference(row, name) {
  const [low, high] = [row[`${name}_low`], row[`${name}_high`]];
  return low == null ? shown(row[name]) : `${shown(row[name])} [${shown(low)}, ${shown(high)}]`;
}

function hover(row) {
  const facts = [`<b>${safe(row.label)}</b>`];
  if (row.rate !== null) facts.push(`rate ${row.rate}${row.proximal ? `, λ ${row.proximal}` : ""}`);
  facts.push(`local ${shown(row.local)}, ${robustness()} ${shown(row.kept)}`);
  if (row.gain !== null) facts.push(`gain ${formatDifference(row, "gain")}, forgetting ${formatDifference(row, "forgetting")}`);
  if (row.worst !== null) facts.push(`forgetting of the worst tenth ${formatDifference(row, "worst")}`);
  if (row.stopped) facts.push(`${row.stopped} of ${row.clients} clients stopped: not finite`);
  return facts.join("<br>");
}

function points(rows, more) {
  return {
    x: rows.map((row) => row.kept), y: rows.map((row) => row.local), text: rows.map(hover),
    hovertemplate: "%{text}<extra></extra>", ...more,
  };
}

/** Return the Pareto front of the visible rows. */
function frontOf(rows) {
  const sign = metricNow().lower ? -1 : 1;
  const finite = rows.filter((row) => row.local !== null && row.kept !== null);
  const beats = (a, b) => {
    const more = [sign * (a.kept - b.kept), sign * (a.local - b.local)];
    return Math.min(...more) >= 0 && Math.max(...more) > 0;
  };
  return finite.filter((row) => !finite.some((other) => beats(other, row)));
}

/** Return the name of the retained score in the grid cell that is shown: others, or global. */
function robustness() {
  return page.places[state.cell].robustness;
}

/** Return the ends of the line of equal scores within the range of the points. */
function diagonal(rows) {
  const ends = ["kept", "local"].map((scope) => rows.map((row) => row[scope]).filter((value) => value !== null));
  const from = Math.max(...ends.map((values) => Math.min(...values)));
  const to = Math.min(...ends.map((values) => Math.max(...values)));
  return from < to ? [from, to] : [];
}

function drawTradeoff() {
  const rows = page.conditions.filter((row) => row.place === state.cell && row.metric === state.metric);
  const visible = rows.filter(inView), traces = [];
  for (const algorithm of algorithms.filter((name) => state.algorithms.has(name))) {
    const ofAlgorithm = visible.filter((row) => row.algorithm === algorithm);
    settings.forEach((setting, number) => {
      const tuned = ofAlgorithm.filter((row) => row.condition === "personalized" && row.setting === setting);
      if (!tuned.length) return;
      const start = ofAlgorithm.filter((row) => row.condition === "federated" && row.setting === tuned[0].start);
      // A best step without a number precedes the last step.
      const along = tuned.filter((row) => row.curve).sort((a, b) => (a.step === null ? -1 : b.step === null ? 1 : a.step - b.step));
      const best = tuned.filter((row) => row.step === null && !row.curve);
      const sizes = [...start.map(() => 0), ...along.map(() => 9)];
      traces.push(points([...start, ...along], {
        mode: "lines+markers", name: safe(`${algorithm}, ${setting}`),
        line: { color: colorOf(algorithm), dash: LINES[number % LINES.length], width: 2 },
        marker: { symbol: SYMBOLS[number % SYMBOLS.length], size: sizes, color: colorOf(algorithm) },
      }));
      if (best.length) traces.push(points(best, {
        mode: "markers", showlegend: false,
        marker: { symbol: `${SYMBOLS[number % SYMBOLS.length]}-open-dot`, size: 11, color: colorOf(algorithm) },
      }));
      const mixed = tuned.filter((row) => row.alpha !== 1);
      if (mixed.length && byId("mixes").checked) traces.push(points(mixed, {
        mode: "markers", showlegend: false,
        marker: { symbol: `${SYMBOLS[number % SYMBOLS.length]}-open`, size: 8, color: colorOf(algorithm) },
      }));
    });
    const last = ofAlgorithm.filter((row) => row.condition === "federated" && row.setting === "last");
    traces.push(points(last, {
      mode: "markers", name: safe(`${algorithm}, federated`),
      marker: { symbol: "circle-open", size: 17, color: colorOf(algorithm), line: { width: 3 } },
    }));
    const earlier = ofAlgorithm.filter((row) => row.condition === "federated" && row.step !== last[0]?.step);
    if (earlier.length) traces.push(points(earlier, {
      mode: "markers", name: safe(`${algorithm}, federated, best round`),
      marker: { symbol: "circle-open-dot", size: 13, color: colorOf(algorithm), line: { width: 2 } },
    }));
  }
  for (const [condition, [symbol, name]] of Object.entries(BASELINES)) {
    // The markers of earlier steps, and of a best step without a number, are smaller than the last one.
    const found = rows.filter((row) => row.condition === condition).sort((a, b) => a.step - b.step);
    const sizes = found.map((row, number) => (number === found.length - 1 ? 13 : 8));
    if (found.length) traces.push(points(found, { mode: "markers", name, marker: { symbol, size: sizes, color: cssValue("--soft") } }));
  }
  if (byId("front").checked) {
    const front = frontOf(visible).sort((a, b) => a.kept - b.kept);
    if (front.length) traces.unshift(points(front, {
      mode: "lines", name: "front", hoverinfo: "skip", hovertemplate: null,
      line: { color: cssValue("--soft"), dash: "dash", width: 1.5 },
    }));
    // The knee was computed on the front of all algorithms, so it is hidden if some are not selected.
    const knee = state.algorithms.size === algorithms.length ? rows.filter((row) => row.knee) : [];
    if (knee.length) traces.push(points(knee, {
      mode: "markers", name: "knee of the front",
      marker: { symbol: "diamond-open", size: 22, color: cssValue("--ink"), line: { width: 2 } },
    }));
  }
  const same = diagonal(rows.filter((row) => !row.algorithm || state.algorithms.has(row.algorithm)));
  if (same.length) traces.unshift({
    x: same, y: same, mode: "lines", name: "equal scores", hoverinfo: "skip",
    line: { color: cssValue("--soft"), dash: "dot", width: 1 },
  });
  const lower = metricNow().lower ? "reversed" : true, unit = safe(metricNow().short);
  const chartLayout = layout(`${robustness()} ${unit}`, `local ${unit}`);
  chartLayout.xaxis.autorange = chartLayout.yaxis.autorange = lower;
  // A legend next to the plot must not scroll; below the plot, on a phone, its height adapts.
  const named = traces.filter((trace) => trace.showlegend !== false).length;
  byId("tradeoff-chart").style.height = chartLayout.legend.orientation === "h" ? "" : `max(34rem, ${1.2 * named + 6}rem)`;
  draw("tradeoff-chart", traces, chartLayout);
  const base = rows.filter((row) => !row.algorithm);
  table("tradeoff-table", ["condition", "local", robustness(), "unseen", "gain", "forgetting", "worst tenth", "skill", "clients"],
    [...base, ...visible].map((row) => [row.label, row.local, row.kept, row.unseen, formatDifference(row, "gain"), formatDifference(row, "forgetting"), formatDifference(row, "worst"), row.skill, row.clients]));
}

function drawForgetting() {
  const visible = page.clients.filter(inView);
  const name = (one) => `${one.algorithm}, ${one.setting}, step ${one.step}`;
  draw("forgetting-chart", visible.map((one) => ({
    type: "box", name: safe(name(one)), y: one.forgetting, text: one.names.map((client, number) => `${safe(client)}<br>gain ${shown(one.gain[number])}`),
    boxpoints: "all", jitter: 0.4, pointpos: 0, marker: { color: colorOf(one.algorithm), size: 5 }, line: { width: 1 },
    fillcolor: "rgba(128,128,128,0.12)", hovertemplate: "%{text}, forgetting %{y:.3g}<extra></extra>", showlegend: false,
  })), layout("", "forgetting", { xaxis: { tickangle: -40, automargin: true } }));
  table("forgetting-table", ["client", "setting", "gain", "forgetting"],
    visible.flatMap((one) => one.names.map((client, number) => [client, name(one), one.gain[number], one.forgetting[number]])));
}

function drawTransfer() {
  const visible = page.transfer.filter(inView);
  const name = (one) => `${one.algorithm}, ${one.setting}`;
  fill(byId("setting"), unique(visible.map(name)).map((text) => [text, text]), byId("setting").value);
  const seeds = unique(visible.filter((one) => name(one) === byId("setting").value).map((one) => one.seed));
  fill(byId("seed"), seeds.map((seed) => [seed, seed]), byId("seed").value);
  const one = visible.find((found) => name(found) === byId("setting").value && String(found.seed) === byId("seed").value);
  if (!one) {
    byId("transfer-table").replaceChildren();
    return draw("transfer-chart", [], {});
  }
  const sign = metricNow().lower ? -1 : 1;
  const better = one.after.map((line, i) => line.map((value, j) => {
    const before = one.before[i][j];
    return value === null || before === null || before === undefined ? null : sign * (value - before);
  }));
  const most = Math.max(1e-9, ...better.flat().filter((value) => value !== null).map(Math.abs));
  const partition = page.partition.find((found) => found.place === one.place && found.seed === one.seed);
  const dots = one.clients.map((client) => one.tasks.map((task) => {
    const row = partition ? partition.clients.indexOf(client) : -1, column = partition ? partition.tasks.indexOf(task) : -1;
    return row >= 0 && column >= 0 && partition.counts[row][column] ? "●" : "";
  }));
  const details = one.after.map((line, i) => line.map((value, j) => `${shown(one.before[i][j])} → ${shown(value)}`));
  draw("transfer-chart", [{
    type: "heatmap", x: one.tasks.map(safe), y: one.clients.map(safe), z: better, text: dots, customdata: details,
    texttemplate: "%{text}", hovertemplate: "%{y} on %{x}: %{customdata}<extra></extra>", zmin: -most, zmax: most,
    colorscale: [[0, "#B35806"], [0.25, "#F1A340"], [0.5, dark() ? "#2a3037" : "#F7F7F7"], [0.75, "#67A9CF"], [1, "#2166AC"]],
    colorbar: { title: { text: "better" }, thickness: 12 },
  }], layout("", "", NAMED));
  table("transfer-table", ["client", ...one.tasks], one.clients.map((client, i) => [client, ...better[i]]));
}

function drawLearning() {
  const visible = page.rounds.filter((one) => one.place === state.cell && state.algorithms.has(one.algorithm));
  draw("learning-chart", visible.flatMap((one) => [
    { x: one.round, y: one.loss, mode: "lines", name: safe(`${one.algorithm}, cohort`), line: { color: colorOf(one.algorithm), width: 2 } },
    { x: one.round, y: one.validation, mode: "markers", name: safe(`${one.algorithm}, validation clients`), marker: { color: colorOf(one.algorithm), size: 9, symbol: "diamond" } },
  ]), layout("round", "nats per target token"));
  table("learning-table", ["algorithm", "round", "cohort's loss", "validation clients' loss"],
    visible.flatMap((one) => one.round.map((round, number) => [one.algorithm, round, one.loss[number], one.validation[number]])));
}

function drawPartition() {
  const one = page.partition.find((found) => found.place === state.cell);
  const facts = page.places[state.cell];
  byId("partition-table").replaceChildren();
  if (!facts) {
    byId("partition-text").textContent = "No run of this grid cell is complete.";
    return draw("partition-chart", [], {});
  }
  byId("partition-text").textContent = `Share of each client's train examples by task${one ? `, seed ${one.seed}` : ""}. Heterogeneity ${shown(facts.heterogeneity)}: ` +
    "the mean distance between a client's task mix and the pooled one; 0 if all mixes are equal." +
    (one && one.clients.length < one.of ? ` Shown are ${one.clients.length} of ${one.of} clients: all test clients and a sample of the others.` : "");
  if (!one) return draw("partition-chart", [], {});
  const share = one.counts.map((line) => {
    const total = Math.max(1, line.reduce((sum, count) => sum + count, 0));
    return line.map((count) => count / total);
  });
  draw("partition-chart", [{
    type: "heatmap", x: one.tasks.map(safe), y: one.clients.map((client, number) => safe(`${client} (${one.groups[number]})`)), z: share,
    customdata: one.counts, hovertemplate: "%{y}<br>%{x}: %{customdata} examples<extra></extra>", zmin: 0, zmax: 1,
    colorscale: [[0, dark() ? "#1e2329" : "#f7fbff"], [0.5, "#6baed6"], [1, dark() ? "#d6ebff" : "#08306b"]], colorbar: { thickness: 12 },
  }], layout("", "", NAMED));
  table("partition-table", ["client", "group", ...one.tasks], one.clients.map((client, number) => [client, one.groups[number], ...one.counts[number]]));
}

function drawAll() {
  for (const part of document.querySelectorAll("[data-metric]")) part.hidden = part.dataset.metric !== state.metric;
  for (const swatch of document.querySelectorAll(".swatch")) swatch.style.background = colorOf(swatch.dataset.algorithm);
  drawTradeoff();
  drawForgetting();
  drawTransfer();
  drawLearning();
  drawPartition();
}

function selectCell() {
  const values = page.axes.map((axis) => byId(`axis-${page.axes.indexOf(axis)}`).value);
  state.cell = page.places.findIndex((cell) => page.axes.every((axis, number) => cell.axes[axis] === values[number]));
  drawAll();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
}

// Download all rows of the page, regardless of the filters.
function downloadRows() {
  const keys = ["place", ...Object.keys(page.conditions[0]).filter((key) => key !== "place")];
  const quoted = (value) => `"${String(value === null ? "" : value).replaceAll('"', '""')}"`;
  const rows = page.conditions.map((row) => keys.map((key) => quoted(key === "place" ? page.places[row.place].title : row[key])).join(","));
  const link = element("a", "", { download: "conditions.csv", href: URL.createObjectURL(new Blob([[keys.join(","), ...rows].join("\n")], { type: "text/csv" })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

function begin() {
  fill(byId("metric"), page.metrics.map((one) => [one.key, one.title]));
  page.axes.forEach((axis, number) => {
    const label = element("label", `${axis} `), select = element("select", undefined, { id: `axis-${number}` });
    fill(select, unique(page.places.map((cell) => cell.axes[axis])).map((value) => [value, value]));
    select.addEventListener("change", selectCell);
    label.append(select);
    byId("axes").append(label);
  });
  for (const algorithm of algorithms) {
    const label = element("label"), box = element("input", undefined, { type: "checkbox", checked: "" });
    box.addEventListener("change", () => {
      if (box.checked) state.algorithms.add(algorithm); else state.algorithms.delete(algorithm);
      drawAll();
    });
    const swatch = element("span", undefined, { class: "swatch", "aria-hidden": "true" });
    swatch.dataset.algorithm = algorithm;
    label.append(box, swatch, algorithm);
    byId("algorithms").append(label);
  }
  byId("metric").addEventListener("change", (event) => { state.metric = event.target.value; drawAll(); });
  for (const id of ["mixes", "front"]) byId(id).addEventListener("change", drawTradeoff);
  for (const id of ["setting", "seed"]) byId(id).addEventListener("change", drawTransfer);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("csv").addEventListener("click", downloadRows);
  byId("theme").addEventListener("click", () => { setTheme(dark() ? "light" : "dark"); drawAll(); });
  setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  drawAll();
}

begin();
