// The live page. It asks its own origin for JSON (docs/api.md) and writes text, never markup: whatever a feed calls its
// skills is shown, not run.
"use strict";

const LOOK_EVERY_MS = 2000;
const HISTORY_EVERY_MS = 5000;
const ROWS = 50;
const HOUR_SECONDS = 3600;
const SPAN_SECONDS_MIN = 300;
const LOW_RATE = 0.7;

/** The clock of the bridge: the browser may be on another machine. */
let bridgeAheadSeconds = 0;
const bridgeNow = () => Date.now() / 1000 + bridgeAheadSeconds;
let startedSeconds = null;

const byId = (id) => document.getElementById(id);

/** An element with a class and text, and children. */
function element(tag, className, text, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

/** Writes text only where it differs, so that a selection or a screen reader is not disturbed. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A feed's text as the log writes it: what controls a line, turns its direction around or is invisible is escaped. */
const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);

/** Makes the children of `list` as many as there are entries, and writes each: those that are there already stay. */
function fill(list, entries, make, writeOne) {
  while (list.children.length > entries.length) list.lastChild.remove();
  entries.forEach((entry, index) => {
    if (index === list.children.length) list.append(make());
    writeOne(list.children[index], entry);
  });
}

/** A row of a table whose first cell is its head. */
function tableRow(columns) {
  const head = element("th");
  head.scope = "row";
  return element("tr", "", null, head, ...Array.from({ length: columns - 1 }, () => element("td")));
}

/** The head of a column. */
function columnHead(...content) {
  const head = element("th", "", null, ...content);
  head.scope = "col";
  return head;
}

// ---- Numbers as people read them ----

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const NONE = "–";

/** Percent, never rounded to a whole that it is not. */
function percent(share) {
  if (share === null) return NONE;
  const text = (share * 100).toFixed(1);
  if (text === "100.0" && share < 1) return "> 99.9 %";
  if (text === "0.0" && share > 0) return "< 0.1 %";
  return `${text.replace(/\.0$/, "")} %`;
}

function duration(seconds) {
  if (seconds === null) return NONE;
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`;
  const total = Math.round(seconds);
  const parts = [[Math.floor(total / 86400), "d"], [Math.floor(total / 3600) % 24, "h"], [Math.floor(total / 60) % 60, "min"], [total % 60, "s"]];
  const first = parts.findIndex(([number]) => number > 0);
  return parts.slice(first, first + 2).filter(([number]) => number > 0).map(([number, unit]) => `${number} ${unit}`).join(" ");
}

/** A span of time, roughly: what changes each second is unrest. */
function ago(seconds) {
  if (seconds < 5) return "just now";
  return `${roughly(seconds)} ago`;
}

function roughly(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["min", 60], ["s", 1]];
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["s", 1];
  const number = Math.floor(seconds / size);
  return `${number} ${unit}${number !== 1 && size > 60 ? "s" : ""}`;
}

/** A moment as how long ago, with the whole of it for who points at it. `now` is the bridge's clock, not the browser's. */
function writeMoment(node, atSeconds, now) {
  if (atSeconds === null) {
    write(node, NONE);
    node.removeAttribute("title");
    return;
  }
  write(node, ago(now - atSeconds));
  const full = date.format(atSeconds * 1000);
  if (node.title === full) return;
  node.title = full;
  if (node.localName === "time") node.dateTime = new Date(atSeconds * 1000).toISOString();
}

// ---- What is asked ----

async function ask(resource) {
  const answer = await fetch(`api/v1/${resource}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the bridge answers ${answer.status}`);
  return answer.json();
}

// ---- Overview and feeds ----

const TILES = ["Active sessions", "Invocations", "Completed", "Mean duration", "Anomalies", "Skills"];
const tiles = new Map();
for (const name of TILES) {
  const value = element("span"), note = element("small");
  byId("tiles").append(element("div", "", null, element("dt", "", name), element("dd", "", null, value, note)));
  tiles.set(name, { value, note });
}

function tile(name, value, note) {
  write(tiles.get(name).value, value);
  write(tiles.get(name).note, note);
}

const FEED_STATES = {
  live: ["good", "Live"], connecting: ["warn", "Connecting"], silent: ["bad", "Silent"], frozen: ["bad", "Frozen"],
  refused: ["bad", "Refused"], unreachable: ["bad", "Unreachable"], stopped: ["warn", "Stopped"],
};

function makePeer() {
  const dot = element("span", "dot");
  dot.setAttribute("aria-hidden", "true");
  return element("li", "", null, dot, element("div", "", null, element("span", "name"), " · ", element("span", "state"), " ", element("span", "since")),
    element("div", "why"), element("div", "facts"));
}

function showReceivers(receivers, now) {
  byId("receivers-section").hidden = receivers.length === 0;
  fill(byId("receivers"), receivers, makePeer, (item, receiver) => {
    const [kind, label] = receiver.is_up ? ["good", "Up"] : receiver.problem ? ["bad", "Down"] : ["warn", "Connecting"];
    if (item.className !== kind) item.className = kind;
    write(item.querySelector(".name"), visible(receiver.receiver));
    write(item.querySelector(".state"), label);
    write(item.querySelector(".why"), visible(receiver.problem));
    const success = receiver.last_success_seconds === null ? "no success yet" : `last success ${ago(now - receiver.last_success_seconds)}`;
    const queued = receiver.queue_ticks === 0 ? "nothing queued"
      : `${whole.format(receiver.queue_ticks)} ${receiver.queue_ticks === 1 ? "tick" : "ticks"} queued, the oldest of ${ago(now - receiver.queue_oldest_seconds)}`;
    write(item.querySelector(".facts"), `${success} · ${queued}`);
  });
}

function showFeeds(feeds, now) {
  byId("feeds-section").hidden = feeds.length === 0;
  fill(byId("feeds"), feeds, makePeer, (item, feed) => {
    const [kind, label] = feed.reason && feed.state === "live" ? ["warn", "Live"] : FEED_STATES[feed.state] ?? ["warn", feed.state];
    if (item.className !== kind) item.className = kind;
    write(item.querySelector(".name"), visible(feed.feed));
    write(item.querySelector(".state"), label);
    write(item.querySelector(".since"), `for ${roughly(Math.max(0, now - feed.since_seconds))}`);
    item.querySelector(".since").title = `since ${date.format(feed.since_seconds * 1000)}`;
    write(item.querySelector(".why"), visible(feed.reason));
    const last = feed.last_message_seconds === null ? "" : `, the last ${ago(now - feed.last_message_seconds)}`;
    const facts = [`${whole.format(feed.messages)} messages${last}`];
    if (feed.source !== null && feed.role !== "standby") facts.push(`source ${feed.source}, ${feed.role}`);
    if (feed.rejected > 0) facts.push(`${whole.format(feed.rejected)} rejected`);
    if (feed.resets > 0) facts.push(`${whole.format(feed.resets)} new databases`);
    if (feed.rows_tell !== null) facts.push(feed.rows_tell ? "its database is read along" : "its database cannot be read");
    else if (feed.tenth_skill_invocations > 0) facts.push(`skills with up to ${whole.format(feed.tenth_skill_invocations)} invocations may be unlisted`);
    write(item.querySelector(".facts"), facts.join(" · "));
  });
}

const TITLE = document.title;
const KEPT = { disk: "kept on disk", memory: "in memory alone: a restart begins anew", failing: "cannot be written to disk just now" };

function showStatus(status) {
  const { totals, feeds } = status, now = status.now_seconds;
  tile("Active sessions", whole.format(status.active_sessions), feeds.length ? `${feeds.filter((feed) => feed.state === "live").length} of ${feeds.length} feeds live` : "");
  tile("Invocations", totals.invocations < 1e6 ? whole.format(totals.invocations) : compact.format(totals.invocations), `${whole.format(totals.completed)} completed`);
  tile("Completed", percent(totals.invocations ? totals.completed / totals.invocations : null), "of all invocations");
  tile("Mean duration", duration(totals.durations ? totals.duration_sum_seconds / totals.durations : null), `${whole.format(totals.durations)} observed`);
  tile("Anomalies", whole.format(totals.anomalies), status.anomalies.length ? `last ${ago(now - status.anomalies[0].at_seconds)}` : "");
  tile("Skills", whole.format(totals.skills), "");
  showFeeds(feeds, now);
  showReceivers(status.receivers, now);
  const away = feeds.filter((feed) => feed.state !== "live").length;
  document.title = (away > 0 ? `${away} of ${feeds.length} feeds not live – ` : "") + TITLE;

  byId("waiting").hidden = totals.skills > 0;
  byId("plots-section").hidden = byId("skills").hidden = totals.skills === 0;
  const heard = feeds.find((feed) => feed.state === "live");
  const why = feeds.length === 0 ? "This program has recorded no skill yet."
    : heard ? `${heard.feed} is live and has listed no skill yet: its database is empty, or nothing was invoked.`
    : feeds.length === 1 ? `${feeds[0].feed}: ${feeds[0].reason || feeds[0].state}.`
    : `None of ${feeds.length} feeds is live. Below stands why.`;
  write(byId("waiting-why"), visible(why));

  showList("anomalies", status.anomalies, now, (anomaly) => {
    const more = [anomaly.anomaly_type.replaceAll("_", " ")];
    if (anomaly.deviation_score !== null) more.push(`${anomaly.deviation_score.toFixed(1)} σ`);
    if (anomaly.times > 1) more.push(`${whole.format(anomaly.times)} times`);
    if (anomaly.is_history) more.push(`found ${anomaly.detected_at ?? ""} before this bridge watched`.replace("  ", " "));
    return [anomaly.skill_name, more.join(" · ")].map(visible);
  });
  showList("rejections", status.rejections, now, (rejection) => {
    const more = [rejection.detail, rejection.feed];
    if (rejection.times > 1) more.push(`${whole.format(rejection.times)} times`);
    return [rejection.reason.replaceAll("_", " "), more.join(" · ")].map(visible);
  });
  write(byId("about"), `Version ${status.version}, up ${roughly(Math.max(0, now - status.started_seconds))}. Counts are ${KEPT[status.state] ?? status.state}.`);
  byId("about").className = status.state === "failing" ? "bad" : "";
}

function showList(id, entries, now, words) {
  byId(`no-${id}`).hidden = entries.length > 0;
  const list = byId(id);
  const make = () => element("li", "", null, element("time", "when"), element("strong"), element("div", "more"));
  fill(list, entries, make, (item, entry) => {
    const [title, more] = words(entry);
    writeMoment(item.querySelector(".when"), entry.at_seconds, now);
    write(item.querySelector("strong"), title);
    write(item.querySelector(".more"), more);
  });
  // A list that can be scrolled has to be reachable by keyboard.
  if (list.scrollHeight > list.clientHeight) list.tabIndex = 0;
  else list.removeAttribute("tabindex");
}

// ---- Skills ----

const COLUMNS = [
  ["skill_name", "Skill", (row) => visible(row.skill_name)],
  ["invocations", "Invocations", (row) => (row.invocations === 0 && row.last_listed_seconds === null ? NONE : whole.format(row.invocations))],
  ["completion_rate", "Completed", (row) => percent(row.completion_rate)],
  ["duration_mean_seconds", "Mean", (row) => duration(row.duration_mean_seconds)],
  ["duration_p95_seconds", "p95", (row) => (row.duration_p95_seconds === 300 ? "≥ 5 min" : duration(row.duration_p95_seconds))],
  ["anomalies", "Anomalies", (row) => whole.format(row.anomalies)],
  ["last_changed_seconds", "Changed", null],
  ["last_listed_seconds", "Listed", null],
];
const USUAL_SORT = "invocations";
const usualOrder = (sort) => (sort === "skill_name" ? "asc" : "desc");
const asked = askedBy(location.search);
byId("filter").value = asked.filter;

/** What the page's own address asks for, so that a view can be kept and passed on. */
function askedBy(query) {
  const given = new URLSearchParams(query);
  const sort = COLUMNS.some(([key]) => key === given.get("sort")) ? given.get("sort") : USUAL_SORT;
  const order = ["asc", "desc"].includes(given.get("order")) ? given.get("order") : usualOrder(sort);
  return { sort, order, filter: given.get("filter") ?? "", offset: 0 };
}

/** Brings the page's address to what is asked. */
function keepAsked() {
  const { sort, order, filter } = asked, kept = new URLSearchParams();
  if (sort !== USUAL_SORT || order !== usualOrder(sort)) Object.entries({ sort, order }).forEach(([name, value]) => kept.set(name, value));
  if (filter) kept.set("filter", filter);
  const query = kept.size > 0 ? `?${kept}` : "";
  if (query !== location.search) history.replaceState(null, "", query || location.pathname);
}

for (const [key, label] of COLUMNS) {
  const button = element("button", "", label);
  button.type = "button";
  button.addEventListener("click", () => {
    asked.order = asked.sort !== key ? usualOrder(key) : asked.order === "asc" ? "desc" : "asc";
    asked.sort = key;
    asked.offset = 0;
    lookAtSkills();
  });
  byId("skill-table").tHead.rows[0].append(columnHead(button));
}

byId("filter").addEventListener("input", () => {
  asked.filter = byId("filter").value.trim();
  asked.offset = 0;
  lookAtSkills();
});
byId("previous").addEventListener("click", () => turn(-ROWS));
byId("next").addEventListener("click", () => turn(ROWS));

function turn(rows) {
  asked.offset = Math.max(0, asked.offset + rows);
  lookAtSkills();
}

let latestSkillsQuestion = 0;

async function lookAtSkills() {
  const question = ++latestSkillsQuestion;
  keepAsked();
  try {
    const skills = await ask(`skills?${new URLSearchParams({ ...asked, limit: ROWS })}`);
    // A slow answer to an old question must not replace the answer to a new one.
    if (question === latestSkillsQuestion) showSkills(skills);
  } catch (error) {
    lost(error);
  }
}

function showSkills({ skills, skills_total: total, skills_matched: matched, offset }) {
  if (offset > 0 && skills.length === 0 && matched > 0) {
    asked.offset = Math.floor((matched - 1) / ROWS) * ROWS;
    lookAtSkills();
    return;
  }
  [...byId("skill-table").tHead.rows[0].cells].forEach((cell, index) => {
    if (COLUMNS[index][0] === asked.sort) cell.setAttribute("aria-sort", asked.order === "asc" ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
  const body = byId("skill-table").tBodies[0];
  const now = bridgeNow();
  if (skills.length === 0) {
    const cell = element("td", "empty", asked.filter ? `No skill's name contains “${asked.filter}”.` : "No skills yet.");
    cell.colSpan = COLUMNS.length;
    body.replaceChildren(element("tr", "", null, cell));
  } else {
    if (body.rows.length > 0 && body.rows[0].cells.length === 1) body.replaceChildren();
    fill(body, skills, () => tableRow(COLUMNS.length), (line, row) => {
      COLUMNS.forEach(([key, , text], column) => {
        if (text) write(line.cells[column], text(row));
        else writeMoment(line.cells[column], row[key], now);
      });
      const name = visible(row.skill_name);
      if (line.cells[0].title !== name) line.cells[0].title = name;
      line.cells[2].className = row.completion_rate !== null && row.completion_rate < LOW_RATE ? "low" : "";
    });
  }
  const range = skills.length ? `${whole.format(offset + 1)}–${whole.format(offset + skills.length)} of ` : "";
  const all = matched === total ? `${whole.format(total)} skills` : `${whole.format(matched)} that match, ${whole.format(total)} in all`;
  write(byId("skill-count"), range + all);
  byId("previous").disabled = offset === 0;
  byId("next").disabled = offset + skills.length >= matched;
  byId("previous").parentElement.hidden = matched <= ROWS && offset === 0;
}

// ---- Plots ----

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const perMinute = (value) => (value === null ? NONE : `${Number(value.toPrecision(3))} a minute`);
const share = (value) => `${Number((value * 100).toFixed(2))} %`;
const PLOTS = [
  { title: "Invocations a minute", lines: [{ key: "invocations_per_minute", colour: "accent" }], words: perMinute, axis: (v) => compact.format(v), area: true },
  { title: "Completed", lines: [{ key: "completion_rate", colour: "good" }], words: percent, axis: share, max: 1 },
  {
    title: "Duration", words: duration, axis: duration,
    lines: [{ key: "duration_p95_seconds", label: "p95", colour: "second" }, { key: "duration_mean_seconds", label: "mean", colour: "accent" }],
  },
];
const MINUTE_COLUMNS = [
  ["Minute to", (row) => clock.format(row.at_seconds * 1000)],
  ["Invocations", (row) => (row.invocations_per_minute === null ? NONE : whole.format(Math.round(row.invocations_per_minute)))],
  ["Completed", (row) => percent(row.completion_rate)],
  ["Mean duration", (row) => duration(row.duration_mean_seconds)],
  ["p95", (row) => duration(row.duration_p95_seconds)],
  ["Anomalies", (row) => whole.format(row.anomalies)],
];
const HEIGHT = 170;
let points = [];

/** The last hour, or as much of it as has been watched. */
function watched() {
  const end = points.length ? points.at(-1).at_seconds : bridgeNow();
  const begin = points.length ? points[0].at_seconds : end;
  return [Math.max(end - HOUR_SECONDS, Math.min(begin, end - SPAN_SECONDS_MIN)), end];
}

/** Small triangles at the top where anomalies were counted. */
function drawMarks(plot) {
  const { ctx, bbox } = plot;
  const size = 3.5 * devicePixelRatio;
  ctx.save();
  ctx.fillStyle = colour("bad");
  for (const point of points) {
    if (point.anomalies === 0) continue;
    const x = plot.valToPos(point.at_seconds, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x - size, bbox.top);
    ctx.lineTo(x + size, bbox.top);
    ctx.lineTo(x, bbox.top + 1.6 * size);
    ctx.fill();
  }
  ctx.restore();
}

for (const spec of PLOTS) {
  const at = element("span");
  const now = element("span", "now");
  for (const line of spec.lines) {
    line.now = element("span");
    // With one line alone there is nothing to tell apart.
    if (line.label) now.append(element("span", `key ${line.colour}`), `${line.label} `);
    now.append(line.now);
  }
  now.append(at);
  const holder = element("div");
  holder.setAttribute("role", "img");
  const figure = element("figure", "plot", null, element("figcaption", "", null, element("span", "", spec.title), now), holder);
  byId("plots").append(figure);
  const axis = { stroke: () => colour("muted"), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const options = {
    width: Math.max(200, holder.clientWidth), height: HEIGHT, pxAlign: 0, padding: [10, 6, 0, 0],
    scales: {
      x: { time: true, range: watched },
      y: { range: (_, __, high) => [0, spec.max ?? (high > 0 ? high * 1.15 : 1)] },
    },
    axes: [
      { ...axis, space: 70, values: "{HH}:{mm}", size: 26 },
      { ...axis, size: 62, space: 34, values: (_, splits) => splits.map(spec.axis) },
    ],
    series: [{}, ...spec.lines.map((line) => ({
      stroke: () => colour(line.colour), width: 1.75, spanGaps: false,
      // A line needs two.
      points: { show: () => points.length < 2, size: 6, fill: () => colour(line.colour) },
      fill: spec.area ? () => `${colour(line.colour)}22` : undefined,
    }))],
    cursor: { sync: { key: "hour" }, y: false, drag: { x: false, y: false } },
    legend: { show: false },
    hooks: { draw: [drawMarks], setCursor: [(plot) => say(spec, plot.cursor.idx)] },
  };
  Object.assign(spec, { at, holder, plot: new uPlot(options, [[], ...spec.lines.map(() => [])], holder) });
  new ResizeObserver(() => {
    if (holder.clientWidth > 0) spec.plot.setSize({ width: holder.clientWidth, height: HEIGHT });
  }).observe(figure);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => PLOTS.forEach(({ plot }) => plot.redraw()));

byId("minutes").querySelector("thead tr").append(...MINUTE_COLUMNS.map(([label]) => columnHead(label)));
byId("minutes").addEventListener("toggle", showMinutes);

function anomalyCount(number) {
  return `${whole.format(number)} anomal${number === 1 ? "y" : "ies"}`;
}

/** What a plot says at a point, or, where nobody points at one, at the last. */
function say(spec, index) {
  const point = points[index ?? points.length - 1];
  if (!point) return;
  for (const line of spec.lines) write(line.now, spec.words(point[line.key]));
  const isPointedAt = index !== null && index !== undefined;
  const anomalies = point.anomalies > 0 ? ` · ${anomalyCount(point.anomalies)}` : "";
  write(spec.at, isPointedAt ? `${anomalies} · ${clock.format(point.at_seconds * 1000)}` : "");
}

/** The points as a table, for whom a plot shows nothing: a row a minute, since each point looks back on one. */
function showMinutes() {
  if (!byId("minutes").open) return;
  const rows = [];
  let row = null;
  for (const point of points.toReversed()) {
    if (row === null || row.at_seconds - point.at_seconds >= 60) {
      row = { ...point, anomalies: 0 };
      rows.push(row);
    }
    row.anomalies += point.anomalies;
  }
  fill(byId("minutes").querySelector("tbody"), rows, () => tableRow(MINUTE_COLUMNS.length), (line, row) => {
    MINUTE_COLUMNS.forEach(([, text], column) => write(line.cells[column], text(row)));
  });
}

async function lookAtHistory() {
  try {
    const after = points.length ? `?after=${points.at(-1).at_seconds}` : "";
    const more = (await ask(`history${after}`)).points;
    points.push(...more);
    const oldest = points.length ? points.at(-1).at_seconds - HOUR_SECONDS : 0;
    points = points.filter((point) => point.at_seconds >= oldest);
  } catch (error) {
    lost(error);
    return;
  }
  const times = points.map((point) => point.at_seconds);
  const anomalies = points.reduce((sum, point) => sum + point.anomalies, 0);
  for (const spec of PLOTS) {
    spec.plot.setData([times, ...spec.lines.map(({ key }) => points.map((point) => point[key]))]);
    say(spec, spec.plot.cursor.idx);
    const values = points.map((point) => point[spec.lines[0].key]).filter((value) => value !== null);
    const words = values.length ? `from ${spec.words(Math.min(...values))} to ${spec.words(Math.max(...values))}` : "nothing yet";
    spec.holder.setAttribute("aria-label", `${spec.title}, last hour: ${words}; ${anomalyCount(anomalies)}.`);
  }
  const begins = points.length && points.at(-1).at_seconds - times[0] < HOUR_SECONDS - 60 ? `Watched since ${clock.format(times[0] * 1000)}.` : "";
  write(byId("history-since"), begins);
  showMinutes();
}

// ---- Going on ----

function pulse(kind, text) {
  byId("pulse").className = kind;
  write(byId("pulse-text"), text);
}

function lost(error) {
  pulse("bad", `No answer from the bridge: ${error.message}. Trying again.`);
}

async function look() {
  try {
    const status = await ask("status");
    bridgeAheadSeconds = status.now_seconds - Date.now() / 1000;
    const isOther = startedSeconds !== null && startedSeconds !== status.started_seconds;
    // A clock that was set back, too, makes what was heard useless.
    if (isOther || (points.length > 0 && points.at(-1).at_seconds > status.now_seconds + 1)) points = [];
    startedSeconds = status.started_seconds;
    showStatus(status);
    if (!isPaused) pulse("good", "Updates by itself");
  } catch (error) {
    lost(error);
    return;
  }
  await lookAtSkills();
}

let isPaused = false;
const onward = new EventTarget();
const goOn = () => onward.dispatchEvent(new Event("on"));
document.addEventListener("visibilitychange", goOn);
byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  write(byId("pause"), isPaused ? "Resume" : "Pause");
  if (isPaused) pulse("warn", `Paused at ${clock.format(bridgeNow() * 1000)}`);
  else goOn();
});

/** One look after the other, and none while nobody sees the page or wants it to stand still. */
async function repeat(action, everyMs) {
  for (;;) {
    await action();
    await new Promise((resolve) => setTimeout(resolve, everyMs));
    while (document.hidden || isPaused) await new Promise((resolve) => onward.addEventListener("on", resolve, { once: true }));
  }
}

repeat(look, LOOK_EVERY_MS);
repeat(lookAtHistory, HISTORY_EVERY_MS);
