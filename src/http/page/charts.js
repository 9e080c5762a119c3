// The charts of the last hour, and the same numbers as a table.

import {
  NONE, anomalyFacts, byId, clock, columnHeader, compact, count, duration, element, fill, minuteClock, percent, tableRow, timeOf, visible, whole, write,
} from "./format.js";

const HOUR_SECONDS = 3600;
const SPAN_SECONDS_MIN = 300;
const HEIGHT = 170;
/** Time labels are at least this far apart, and at least three are shown. */
const LABEL_PIXELS = 64;
const LABEL_STEPS_SECONDS = [60, 120, 180, 240, 300, 600, 900, 1200];
/** The pointer is at an anomaly within this distance. */
const MARK_PIXELS = 8;
const ANOMALIES_SHOWN = 5;
/** Steps of the arrow keys across a chart. */
const KEY_STEPS = 60;

/** A colour of the page as a canvas takes it: where colours are forced, the names are of the system's. */
function colour(name) {
  const probe = byId("plots");
  probe.style.color = `var(--${name})`;
  const { color } = getComputedStyle(probe);
  probe.style.color = "";
  return color;
}
const forcedColours = matchMedia("(forced-colors: active)");
const perMinute = (value) => (value === null ? NONE : `${Number(value.toPrecision(3))} per minute`);

/** Steps of 1, 2 and 5 in a unit. */
const decimalSteps = (unit) => Array.from({ length: 30 }, (_, index) => unit * [1, 2, 5][index % 3] * 10 ** (Math.floor(index / 3) - 3));
const sexagesimalSteps = (unit) => [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60].map((step) => step * unit);
const inUnit = (size, unit) => (value) => `${whole.format(Number((value / size).toPrecision(6)))}${unit}`;

/** One unit for all labels of an axis, by its highest value: the steps of its labels, and their text. */
const SCALES = {
  rate: (high) => (high >= 1e6 ? { steps: decimalSteps(1e6), text: inUnit(1e6, " M") } : { steps: decimalSteps(1), text: inUnit(1, "") }),
  share: () => ({ steps: [0.1, 0.25, 0.5, 1], text: inUnit(0.01, " %") }),
  duration: (high) => (high < 1 ? { steps: decimalSteps(0.001), text: inUnit(0.001, " ms") }
    : high < 120 ? { steps: decimalSteps(1), text: inUnit(1, " s") }
    : high < 7200 ? { steps: sexagesimalSteps(60), text: inUnit(60, " min") }
    : { steps: [...sexagesimalSteps(3600), ...decimalSteps(36000)].sort((a, b) => a - b), text: inUnit(3600, " h") }),
};

const CHARTS = [
  { title: "Invocations per minute", lines: [{ key: "invocations_per_minute", colour: "accent" }], text: perMinute, scale: SCALES.rate, isArea: true, hasAnomalies: true },
  { title: "Completed", lines: [{ key: "completion_rate", colour: "good" }], text: percent, scale: SCALES.share, high: 1 },
  {
    title: "Duration", text: duration, scale: SCALES.duration,
    lines: [{ key: "duration_p95_seconds", label: "p95", colour: "second", dash: [2, 3] }, { key: "duration_mean_seconds", label: "mean", colour: "accent" }],
  },
];
const MINUTE_COLUMNS = [
  ["Minute to", (row) => clock.format(row.at_seconds * 1000)],
  ["Invocations", (row) => (row.invocations_per_minute === null ? NONE : whole.format(Math.round(row.invocations_per_minute)))],
  ["Completed", (row) => percent(row.completion_rate)],
  ["Mean duration", (row) => duration(row.duration_mean_seconds)],
  ["p95", (row) => duration(row.duration_p95_seconds)],
  ["Feeds", coverageText],
  ["Anomalies", (row) => whole.format(row.anomalies)],
];

let points = [];
/** The anomalies that are known by name, oldest first, and since when they are complete. */
let anomalies = [], anomaliesSince = -Infinity;

/** When the outage began that the point at `index` ends; `null` if it ends none. */
const outageBefore = (index) => (points[index].coverage !== "none" && points[index - 1]?.coverage === "none" ? points[index].caught_up_since_seconds : null);

/** Whether data of a point is missing or was caught up, as text. */
function coverageText(point) {
  if (point.coverage === "none") return "no feed delivered data";
  const missing = point.coverage === "partial" ? "not every feed delivered data" : "";
  const caughtUp = point.caught_up_since_seconds === null ? "" : `includes data caught up since ${timeOf(point.caught_up_since_seconds)}`;
  return [missing, caughtUp].filter(Boolean).join("; ");
}

/** The last hour, or as much of it as is known. */
function shownWindow() {
  const end = points.length ? points.at(-1).at_seconds : Date.now() / 1000;
  const begin = points.length ? points[0].at_seconds : end;
  return [Math.max(end - HOUR_SECONDS, Math.min(begin, end - SPAN_SECONDS_MIN)), end];
}

/** Times of labels: whole minutes of the browser's time zone. */
function timeLabels(plot, _axis, begin, end) {
  const span = end - begin;
  const allowed = LABEL_STEPS_SECONDS.filter((step) => span / step >= 3);
  const pixels = plot.bbox.width / devicePixelRatio;
  const step = allowed.find((step) => (step / span) * pixels >= LABEL_PIXELS) ?? allowed.at(-1);
  const offset = -new Date(end * 1000).getTimezoneOffset() * 60;
  const labels = [];
  for (let at = Math.ceil((begin + offset) / step) * step - offset; at <= end; at += step) labels.push(at);
  return labels;
}

/** The name of the browser's time zone, and its offset from UTC. */
function zone() {
  const parts = (timeZoneName) => new Intl.DateTimeFormat("en-GB", { timeZoneName }).formatToParts().find(({ type }) => type === "timeZoneName").value;
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone, offset = parts("longOffset").replace("GMT", "UTC").padEnd(9, "+00:00");
  return name === "UTC" ? name : `${name} (${offset})`;
}

/** Times without data, each with whether no feed delivered or only some did not. */
function outages() {
  const found = [];
  points.forEach((point, index) => {
    const isEnd = outageBefore(index) !== null;
    if (point.coverage === "complete" && !isEnd) return;
    const kind = point.coverage === "none" || isEnd ? "none" : "partial";
    const begin = points[index - 1]?.at_seconds ?? point.at_seconds;
    const last = found.at(-1);
    if (last?.kind === kind && last.end === begin) last.end = point.at_seconds;
    else found.push({ kind, begin, end: point.at_seconds });
  });
  return found.filter(({ begin, end }) => end > begin);
}

/** Positions `node` in the plot from one time to another, and `inset` pixels away from its edges. */
function position(node, plot, begin, end, inset = 0) {
  const [from, to] = [begin, end].map((at) => Math.min(Math.max(plot.valToPos(at, "x"), inset), plot.over.clientWidth - inset));
  node.style.left = `${from}px`;
  node.style.width = `${Math.max(to - from, 0)}px`;
}

/** The shaded times, the averages of what was caught up, and the anomalies of a chart. */
function annotate(chart, plot) {
  if (!chart.bands) return;
  fill(chart.bands, outages(), () => element("div"), (band, { kind, begin, end }) => {
    band.className = `band ${kind}`;
    position(band, plot, begin, end);
  });
  const averages = points.flatMap((point, index) => {
    const since = outageBefore(index);
    return since === null ? [] : chart.lines.filter(({ key }) => point[key] !== null).map((line) => ({ line, since, point }));
  });
  fill(chart.averages, averages, () => element("div"), (average, { line, since, point }) => {
    average.className = `average ${line.colour}`;
    position(average, plot, since, point.at_seconds);
    average.style.top = `${plot.valToPos(point[line.key], "y")}px`;
  });
  if (chart.hasAnomalies) fill(chart.marks, marks(), () => element("div", "mark"), (mark, { at }) => position(mark, plot, at, at, MARK_PIXELS / 2));
}

/** A mark for each time with anomalies. Those that are no longer known by name are counted. */
function marks() {
  const [begin, end] = shownWindow();
  const counted = points.filter((point) => point.anomalies > 0 && point.at_seconds < anomaliesSince);
  const named = anomalies.map((anomaly) => ({ at: anomaly.at_seconds, number: anomaly.times, anomaly }));
  return [...counted.map((point) => ({ at: point.at_seconds, number: point.anomalies })), ...named].filter(({ at }) => at >= begin && at <= end);
}

const anomalyCount = (number) => count(number, "anomaly", "anomalies");

/** Shows what is known of the point under the pointer, beside it and without moving anything. */
function showTooltip(chart, plot) {
  const index = plot.cursor.idx;
  const point = points[index];
  const isShown = chart.isPointedAt && point !== undefined && plot.cursor.left >= 0;
  chart.tooltip.hidden = !isShown;
  if (!isShown) return;
  const since = outageBefore(index);
  const lines = [since === null ? timeOf(point.at_seconds) : `${timeOf(since)} to ${timeOf(point.at_seconds)}, average`];
  for (const { key, label } of chart.lines) lines.push(`${label ? `${label} ` : ""}${chart.text(point[key])}`);
  const coverage = coverageText(point);
  if (coverage) lines.push(coverage);
  if (chart.hasAnomalies) {
    const near = marks().filter(({ at }) => Math.abs(plot.valToPos(at, "x") - plot.cursor.left) <= MARK_PIXELS);
    const named = near.filter(({ anomaly }) => anomaly);
    for (const { anomaly } of named.slice(0, ANOMALIES_SHOWN)) lines.push(`${visible(anomaly.skill_name)}: ${visible(anomalyFacts(anomaly).join(", "))}`);
    const others = near.reduce((sum, { number }) => sum + number, 0) - named.slice(0, ANOMALIES_SHOWN).reduce((sum, { number }) => sum + number, 0);
    if (others > 0) lines.push(`${named.length > 0 ? "and " : ""}${anomalyCount(others)}${named.length > 0 ? " more" : ""}`);
  }
  fill(chart.tooltip, lines, () => element("div"), write);
  const { clientWidth: width } = plot.over;
  const left = plot.cursor.left + 12 + chart.tooltip.offsetWidth > width ? plot.cursor.left - 12 - chart.tooltip.offsetWidth : plot.cursor.left + 12;
  chart.tooltip.style.left = `${Math.max(Math.min(left, width - chart.tooltip.offsetWidth), 0)}px`;
}

/** Moves the cursor of a chart by keys, as the pointer does. */
function steer(chart, event) {
  const last = points.length - 1, step = Math.max(1, Math.round(points.length / KEY_STEPS));
  const from = chart.plot.cursor.idx ?? last + 1;
  const to = { ArrowLeft: from - step, ArrowRight: from + step, Home: 0, End: last }[event.key];
  if (event.key === "Escape") chart.plot.setCursor({ left: -10, top: -10 });
  if (to === undefined || last < 0) return;
  event.preventDefault();
  chart.isPointedAt = true;
  chart.plot.setCursor({ left: chart.plot.valToPos(points[Math.min(Math.max(to, 0), last)].at_seconds, "x"), top: HEIGHT / 3 });
}

function draw(chart) {
  const latest = element("span", "now");
  for (const line of chart.lines) {
    line.now = element("span");
    // A single line needs no key.
    if (line.label) latest.append(element("span", `key ${line.colour}`), `${line.label} `);
    latest.append(line.now);
  }
  const holder = element("div", "holder");
  holder.setAttribute("role", "img");
  holder.tabIndex = 0;
  const figure = element("figure", "plot", null, element("figcaption", "", null, element("span", "", chart.title), latest), holder);
  byId("plots").append(figure);
  const axis = { stroke: () => colour("muted"), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const scaleOf = (plot) => chart.scale(plot.scales.y.max ?? 1);
  const options = {
    width: Math.max(200, holder.clientWidth), height: HEIGHT, pxAlign: 0, padding: [12, 16, 0, 0],
    scales: {
      x: { time: true, range: shownWindow },
      y: { range: (_, __, high) => [0, chart.high ?? (high > 0 ? high * 1.15 : 1)] },
    },
    axes: [
      { ...axis, splits: timeLabels, values: (_, times) => times.map((at) => minuteClock.format(at * 1000)), size: 26 },
      { ...axis, size: 58, space: 34, incrs: (plot) => scaleOf(plot).steps, values: (plot, splits) => splits.map(scaleOf(plot).text) },
    ],
    series: [{}, ...chart.lines.map((line) => ({
      stroke: () => colour(line.colour), width: 1.75, spanGaps: false, dash: line.dash,
      // A line needs two points.
      points: { show: () => points.length < 2, size: 6, fill: () => colour(line.colour) },
      fill: chart.isArea ? () => (forcedColours.matches ? "transparent" : colour("area")) : undefined,
    }))],
    cursor: { sync: { key: "hour" }, y: false, drag: { x: false, y: false } },
    legend: { show: false },
    hooks: { draw: [(plot) => annotate(chart, plot)], setCursor: [(plot) => chart.tooltip && showTooltip(chart, plot)] },
  };
  const plot = new uPlot(options, [[], ...chart.lines.map(() => [])], holder);
  const layer = (parent, className) => parent.appendChild(element("div", className));
  Object.assign(chart, {
    plot, holder, isPointedAt: false,
    bands: layer(plot.under, "layer"), averages: layer(plot.under, "layer"), marks: layer(plot.over, "layer"), tooltip: layer(plot.over, "tooltip"),
  });
  chart.tooltip.hidden = true;
  plot.over.addEventListener("mouseenter", () => { chart.isPointedAt = true; });
  const leave = () => {
    chart.isPointedAt = false;
    plot.setCursor({ left: -10, top: -10 });
  };
  plot.over.addEventListener("mouseleave", leave);
  holder.addEventListener("blur", leave);
  holder.addEventListener("keydown", (event) => steer(chart, event));
  new ResizeObserver(() => {
    if (holder.clientWidth > 0) plot.setSize({ width: holder.clientWidth, height: HEIGHT });
  }).observe(figure);
}

/** The points as a table: a row per minute, since each point summarizes one, and one for the end of each outage. */
function showMinutes() {
  if (!byId("minutes").open) return;
  const rows = [];
  let row = null;
  for (let index = points.length - 1; index >= 0; index -= 1) {
    const point = points[index];
    if (row === null || row.at_seconds - point.at_seconds >= 60 || outageBefore(index) !== null) {
      row = { ...point, anomalies: 0 };
      rows.push(row);
    }
    row.anomalies += point.anomalies;
  }
  fill(byId("minutes").querySelector("tbody"), rows, () => tableRow(MINUTE_COLUMNS.length), (line, row) => {
    MINUTE_COLUMNS.forEach(([, text], column) => write(line.cells[column], text(row)));
  });
}

/** The time of the latest point; `null` without points. */
export const latestSeconds = () => points.at(-1)?.at_seconds ?? null;

const COVERAGES = ["none", "partial", "complete"];
const rank = (point) => COVERAGES.indexOf(point.coverage);

/** Whether fewer feeds deliver in `more` points than in the latest of those before. */
export const losesCoverage = (more) => points.length > 0 && more.some((point) => rank(point) < rank(points.at(-1)));

/** Drops all points: they are of another process, or of a clock that was set back. */
export function clearPoints() {
  points = [];
}

/** Takes the named anomalies, latest first as in the answer. `isComplete` unless older ones were dropped. */
export function setAnomalies(known, isComplete) {
  anomalies = known.filter((anomaly) => !anomaly.is_history).toReversed();
  anomaliesSince = isComplete ? -Infinity : known.at(-1)?.at_seconds ?? -Infinity;
  for (const chart of CHARTS) annotate(chart, chart.plot);
}

/** Adds points, and draws everything. */
export function showPoints(more) {
  points.push(...more);
  const oldest = points.length ? points.at(-1).at_seconds - HOUR_SECONDS : 0;
  points = points.filter((point) => point.at_seconds >= oldest);
  const times = points.map((point) => point.at_seconds);
  const gaps = outages().filter(({ kind }) => kind === "none").length;
  for (const chart of CHARTS) {
    // What was caught up is drawn as an average of the whole outage.
    const value = (key) => (point, index) => (outageBefore(index) === null ? point[key] : null);
    chart.plot.setData([times, ...chart.lines.map(({ key }) => points.map(value(key)))]);
    for (const line of chart.lines) write(line.now, chart.text(points.at(-1)?.[line.key] ?? null));
    const values = points.map((point) => point[chart.lines[0].key]).filter((value) => value !== null);
    const text = [values.length ? `from ${chart.text(Math.min(...values))} to ${chart.text(Math.max(...values))}` : "no data"];
    if (gaps > 0) text.push(count(gaps, "outage"));
    if (chart.hasAnomalies) text.push(anomalyCount(points.reduce((sum, point) => sum + point.anomalies, 0)));
    chart.holder.setAttribute("aria-label", `${chart.title}, last hour: ${text.join("; ")}.`);
  }
  const isShort = points.length > 0 && points.at(-1).at_seconds - times[0] < HOUR_SECONDS - 60;
  write(byId("history-since"), isShort ? `Recorded since ${timeOf(times[0])}.` : "");
  byId("outage-key").hidden = gaps === 0;
  byId("partial-key").hidden = !outages().some(({ kind }) => kind === "partial");
  showMinutes();
}

for (const chart of CHARTS) draw(chart);
for (const query of [matchMedia("(prefers-color-scheme: dark)"), forcedColours]) {
  query.addEventListener("change", () => CHARTS.forEach(({ plot }) => plot.redraw()));
}
write(byId("zone"), `Times: ${zone()}.`);
byId("minutes").querySelector("thead tr").append(...MINUTE_COLUMNS.map(([label]) => columnHeader(label)));
byId("minutes").addEventListener("toggle", showMinutes);
