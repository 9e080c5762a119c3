// The live page: asks its own origin for JSON (docs/reference/api.md) and shows it.

import { clearPoints, latestSeconds, losesCoverage, setAnomalies, showPoints } from "./charts.js";
import {
  NONE, ago, anomalyFacts, byId, clampedName, columnHeader, compact, count, dateOf, duration, element, fill, percent, roughly, setClampedStops, tableRow,
  timeOf, visible, whole, write, writeTime,
} from "./format.js";

const STATUS_EVERY_MS = 2000;
const HISTORY_EVERY_MS = 5000;
const ROWS = 50;
const LOW_RATE = 0.7;
/** Most anomalies that a status lists. */
const ANOMALIES_LISTED = 50;

/** The clock of the bridge: the browser may be on another machine. */
let bridgeAheadSeconds = 0;
const bridgeNow = () => Date.now() / 1000 + bridgeAheadSeconds;
let startedSeconds = null;

async function request(resource) {
  const answer = await fetch(`api/v1/${resource}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the bridge answers ${answer.status}`);
  return answer.json();
}

// ---- The lamp: the worst of feeds, receivers, state and refresh ----

const KINDS = ["good", "warn", "bad"];
let problems = [], summary = "Loading", refreshError = null, pausedAt = null;

/** Everything that is not as it should be, each with its kind. */
function problemsOf({ feeds, receivers, state }) {
  const found = [];
  const add = (kind, some, all, singular, what) => {
    if (some.length > 0) found.push({ kind, text: `${whole.format(some.length)} of ${count(all.length, singular)} ${what}` });
  };
  const notLive = feeds.filter((feed) => feed.state !== "live");
  add(notLive.some((feed) => feedView(feed)[0] === "bad") ? "bad" : "warn", notLive, feeds, "feed", "not live");
  add("warn", feeds.filter((feed) => feed.state === "live" && feed.last_data_seconds === null), feeds, "feed", "without data yet");
  add("warn", feeds.filter((feed) => feed.rows_tell === false), feeds, "feed", "without a readable database");
  for (const [kind, what] of [["bad", "down"], ["warn", "connecting"]]) {
    add(kind, receivers.filter((receiver) => receiverView(receiver)[0] === kind), receivers, "receiver", what);
  }
  if (state === "failing") found.push({ kind: "bad", text: "counts cannot be written to disk" });
  return found;
}

function showLamp() {
  const shown = [...problems];
  if (pausedAt !== null) shown.unshift({ kind: "warn", text: `Paused at ${timeOf(pausedAt)}` });
  if (refreshError !== null) shown.unshift({ kind: "bad", text: `No answer from the bridge: ${refreshError.message}. Trying again` });
  const kind = KINDS[Math.max(0, ...shown.map((problem) => KINDS.indexOf(problem.kind)))];
  byId("pulse").className = startedSeconds === null && refreshError === null ? "" : kind;
  write(byId("pulse-text"), shown.length > 0 ? shown.map(({ text }) => text).join(" · ") : summary);
  document.title = [refreshError === null ? problems[0]?.text : "No answer", TITLE].filter(Boolean).join(" – ");
}

// ---- Overview, feeds and receivers ----

const TITLE = document.title;
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

/** The kind of a feed's state, and its name. */
function feedView(feed) {
  const isConnected = feed.connected_since_seconds !== null;
  if (feed.state === "live" && feed.last_data_seconds === null) return ["warn", "Connected"];
  if (feed.state === "live" && feed.role === "standby") return ["good", "Standby"];
  if (feed.state === "silent" && isConnected) return ["bad", "No data"];
  if (feed.state === "connecting" && isConnected) return ["warn", "Connected"];
  return FEED_STATES[feed.state] ?? ["warn", feed.state];
}

const receiverView = (receiver) => (receiver.is_up ? ["good", "Up"] : receiver.problem ? ["bad", "Down"] : ["warn", "Connecting"]);

/** How long a connected feed has delivered no data. */
const withoutData = (feed, now) => roughly(now - Math.max(feed.connected_since_seconds, feed.last_data_seconds ?? 0));

function makePeer() {
  const dot = element("span", "dot");
  dot.setAttribute("aria-hidden", "true");
  const title = element("div", "", null, element("bdi", "name"), " · ", element("span", "state"), " ", element("span", "since"));
  return element("li", "", null, dot, title, element("div", "why"), element("div", "facts"));
}

function writePeer(item, [kind, label], name, why, facts) {
  if (item.className !== kind) item.className = kind;
  write(item.querySelector(".name"), visible(name));
  write(item.querySelector(".state"), label);
  write(item.querySelector(".why"), visible(why));
  write(item.querySelector(".facts"), facts.join(" · "));
}

function showReceivers(receivers, now) {
  byId("receivers-section").hidden = receivers.length === 0;
  fill(byId("receivers"), receivers, makePeer, (item, receiver) => {
    const success = receiver.last_success_seconds === null ? "no success yet" : `last success ${ago(now - receiver.last_success_seconds)}`;
    const queued = receiver.queue_ticks === 0 ? "nothing queued"
      : `${count(receiver.queue_ticks, "tick")} queued, the oldest ${ago(now - receiver.queue_oldest_seconds)}`;
    writePeer(item, receiverView(receiver), receiver.receiver, receiver.problem, [success, queued]);
  });
}

function showFeeds(feeds, now) {
  byId("feeds-section").hidden = feeds.length === 0;
  fill(byId("feeds"), feeds, makePeer, (item, feed) => {
    const last = feed.last_message_seconds === null ? "" : `, the last ${ago(now - feed.last_message_seconds)}`;
    const facts = [`${count(feed.messages, "message")}${last}`];
    if (feed.source !== null && feed.role !== "standby") facts.push(`source ${feed.source}, ${feed.role}`);
    if (feed.rejected > 0) facts.push(`${whole.format(feed.rejected)} rejected`);
    if (feed.resets > 0) facts.push(count(feed.resets, "database reset"));
    if (feed.rollbacks > 0) facts.push(count(feed.rollbacks, "database rollback"));
    if (feed.rows_tell !== null) facts.push(feed.rows_tell ? "counts come from the database" : "the database cannot be read: counts come from the feed");
    else if (feed.tenth_skill_invocations > 0) facts.push(`skills with up to ${count(feed.tenth_skill_invocations, "invocation")} may be unlisted`);
    const why = feed.state === "live" && feed.last_data_seconds === null ? `connected, no data for ${withoutData(feed, now)}` : feed.reason;
    writePeer(item, feedView(feed), feed.feed, why, facts);
    const since = item.querySelector(".since");
    write(since, `for ${roughly(Math.max(0, now - feed.since_seconds))}`);
    since.title = `since ${dateOf(feed.since_seconds)}`;
  });
}

/** Why there is no skill yet: the title, the reason, and which instructions help. */
function emptyState(feeds, now) {
  if (feeds.length === 0) return ["No skill recorded yet", "Skills appear here as soon as this program records one.", "none"];
  const filled = feeds.find((feed) => feed.state === "live" && feed.last_data_seconds !== null);
  if (filled) {
    return ["Connected, no skill yet", `${filled.feed} is live and lists no skill: its database is empty. Skills appear here a second after their first invocation.`, "none"];
  }
  const connected = feeds.find((feed) => feed.connected_since_seconds !== null);
  if (connected) return ["Connected, no data yet", `${connected.feed}: connected, no data for ${withoutData(connected, now)}.`, "data"];
  if (feeds.every((feed) => feed.state === "connecting")) return ["Connecting to Session-Buddy", `${feeds.map(({ feed }) => feed).join(", ")}: connecting.`, "start"];
  const refused = feeds.find((feed) => feed.state === "refused");
  const [feed] = refused ? [refused] : feeds;
  return [refused ? "Session-Buddy refuses the connection" : "Cannot reach Session-Buddy", `${feed.feed}: ${feed.reason || feed.state}.`, refused ? "check" : "start"];
}

function showEmptyState(skills, feeds, now) {
  byId("empty-state").hidden = skills > 0;
  byId("plots-section").hidden = byId("skills").hidden = skills === 0;
  if (skills > 0) return;
  const [title, why, help] = emptyState(feeds, now);
  write(byId("empty-title"), title);
  write(byId("empty-why"), visible(why));
  byId("how-to-start").hidden = help !== "start";
  byId("why-no-data").hidden = help !== "data";
  byId("how-to-check").hidden = help === "none";
}

const PERSISTENCE = {
  disk: "Counts are persisted on disk.",
  memory: "Counts are in memory only: a restart does not continue them.",
  failing: "Counts cannot be written to disk: the bridge retries, and a restart loses what is not written.",
};

function showStatus(status) {
  const { totals, feeds } = status, now = status.now_seconds;
  const live = feeds.filter((feed) => feed.state === "live").length;
  summary = feeds.length === 0 ? "Recording" : `${whole.format(live)} of ${count(feeds.length, "feed")} live`;
  problems = problemsOf(status);
  tile("Active sessions", whole.format(status.active_sessions), feeds.length ? summary : "");
  tile("Invocations", totals.invocations < 1e6 ? whole.format(totals.invocations) : compact.format(totals.invocations), `${whole.format(totals.completed)} completed`);
  tile("Completed", percent(totals.invocations ? totals.completed / totals.invocations : null), "of all invocations");
  tile("Mean duration", duration(totals.durations ? totals.duration_sum_seconds / totals.durations : null), `${whole.format(totals.durations)} observed`);
  tile("Anomalies", whole.format(totals.anomalies), status.anomalies.length ? `last ${ago(now - status.anomalies[0].at_seconds)}` : "");
  tile("Skills", whole.format(totals.skills), "");
  showFeeds(feeds, now);
  showReceivers(status.receivers, now);
  showEmptyState(totals.skills, feeds, now);
  setAnomalies(status.anomalies, status.anomalies.length < ANOMALIES_LISTED);

  showList("anomalies", status.anomalies, now, (anomaly) => {
    const facts = anomalyFacts(anomaly);
    if (anomaly.is_history) facts.push(["detected", anomaly.detected_at, "before this bridge started to count"].filter(Boolean).join(" "));
    return [anomaly.skill_name, facts.join(" · ")].map(visible);
  });
  showList("rejections", status.rejections, now, (rejection) => {
    const facts = [rejection.detail, rejection.feed];
    if (rejection.times > 1) facts.push(`${whole.format(rejection.times)} times`);
    return [rejection.reason.replaceAll("_", " "), facts.join(" · ")].map(visible);
  });
  write(byId("about"), `Version ${status.version}, up ${roughly(Math.max(0, now - status.started_seconds))}. ${PERSISTENCE[status.state] ?? ""}`);
  byId("about").className = status.state === "failing" ? "bad" : "";
}

function showList(id, entries, now, texts) {
  byId(`no-${id}`).hidden = entries.length > 0;
  const list = byId(id);
  const make = () => element("li", "", null, element("time", "when"), clampedName("strong"), element("div", "more"));
  fill(list, entries, make, (item, entry) => {
    const [title, more] = texts(entry);
    writeTime(item.querySelector(".when"), entry.at_seconds, now);
    write(item.querySelector("strong"), title);
    write(item.querySelector(".more"), more);
  });
  setClampedStops(list);
  // A list that scrolls has to be reachable by keyboard.
  if (list.scrollHeight > list.clientHeight) list.tabIndex = 0;
  else list.removeAttribute("tabindex");
}

// ---- Skills ----

/** The rate of a skill; of one that only events report, the share of its invocations that completed. */
const completed = (row) => row.completion_rate ?? (row.invocations > 0 ? row.completed / row.invocations : null);

const COLUMNS = [
  ["skill_name", "Skill", (row) => visible(row.skill_name)],
  ["invocations", "Invocations", (row) => (row.invocations === 0 && row.last_listed_seconds === null ? NONE : whole.format(row.invocations))],
  ["completion_rate", "Completed", (row) => percent(completed(row))],
  ["duration_mean_seconds", "Mean", (row) => duration(row.duration_mean_seconds)],
  ["duration_p95_seconds", "p95", (row) => (row.duration_p95_seconds === 300 ? "≥ 5 min" : duration(row.duration_p95_seconds))],
  ["anomalies", "Anomalies", (row) => whole.format(row.anomalies)],
  ["last_changed_seconds", "Changed", null],
  ["last_listed_seconds", "Listed", null],
];
const USUAL_SORT = "invocations";
const usualOrder = (sort) => (sort === "skill_name" ? "asc" : "desc");
const table = byId("skill-table"), frame = table.parentElement;
const requested = requestedBy(location.search);
byId("filter").value = requested.filter;

/** The view that the page's own address requests, so that it can be bookmarked and shared. */
function requestedBy(query) {
  const given = new URLSearchParams(query);
  const sort = COLUMNS.some(([key]) => key === given.get("sort")) ? given.get("sort") : USUAL_SORT;
  const order = ["asc", "desc"].includes(given.get("order")) ? given.get("order") : usualOrder(sort);
  return { sort, order, filter: given.get("filter") ?? "", offset: 0 };
}

/** Writes the view into the page's address. */
function updateAddress() {
  const { sort, order, filter } = requested, parameters = new URLSearchParams();
  if (sort !== USUAL_SORT || order !== usualOrder(sort)) Object.entries({ sort, order }).forEach(([name, value]) => parameters.set(name, value));
  if (filter) parameters.set("filter", filter);
  const query = parameters.size > 0 ? `?${parameters}` : "";
  if (query !== location.search) history.replaceState(null, "", query || location.pathname);
}

for (const [key, label] of COLUMNS) {
  const button = element("button", "", label);
  button.type = "button";
  button.addEventListener("click", () => {
    requested.order = requested.sort !== key ? usualOrder(key) : requested.order === "asc" ? "desc" : "asc";
    requested.sort = key;
    requested.offset = 0;
    refreshSkills();
  });
  table.tHead.rows[0].append(columnHeader(button));
}

byId("filter").addEventListener("input", () => {
  requested.filter = byId("filter").value.trim();
  requested.offset = 0;
  refreshSkills();
});
byId("previous").addEventListener("click", () => turn(-ROWS));
byId("next").addEventListener("click", () => turn(ROWS));

function turn(rows) {
  requested.offset = Math.max(0, requested.offset + rows);
  refreshSkills();
}

let latestSkillsRequest = 0;

async function refreshSkills() {
  const number = ++latestSkillsRequest;
  updateAddress();
  await refresh(async () => {
    const skills = await request(`skills?${new URLSearchParams({ ...requested, limit: ROWS })}`);
    // A slow answer to an old request must not replace the answer to a new one.
    if (number === latestSkillsRequest) showSkills(skills);
  });
}

function skillRow() {
  const row = tableRow(COLUMNS.length);
  row.cells[0].append(clampedName("span"));
  return row;
}

function showSkills({ skills, skills_total: total, skills_matched: matched, offset }) {
  if (offset > 0 && skills.length === 0 && matched > 0) {
    requested.offset = Math.floor((matched - 1) / ROWS) * ROWS;
    refreshSkills();
    return;
  }
  const sorted = COLUMNS.findIndex(([key]) => key === requested.sort);
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    cell.classList.toggle("sorted", index === sorted);
    if (index === sorted) cell.setAttribute("aria-sort", requested.order === "asc" ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
  const body = table.tBodies[0];
  const now = bridgeNow();
  if (skills.length === 0) {
    const cell = element("td", "empty", requested.filter ? `No skill's name contains “${visible(requested.filter)}”.` : "No skills yet.");
    cell.colSpan = COLUMNS.length;
    body.replaceChildren(element("tr", "", null, cell));
  } else {
    if (body.rows.length > 0 && body.rows[0].cells.length === 1) body.replaceChildren();
    fill(body, skills, skillRow, (line, row) => {
      COLUMNS.forEach(([key, , text], column) => {
        const cell = column === 0 ? line.cells[0].firstChild : line.cells[column];
        if (text) write(cell, text(row));
        else writeTime(cell, row[key], now);
        line.cells[column].classList.toggle("sorted", column === sorted);
      });
      const name = visible(row.skill_name);
      if (line.cells[0].title !== name) line.cells[0].title = name;
      line.cells[2].classList.toggle("low", (completed(row) ?? 1) < LOW_RATE);
      if (row.last_listed_seconds === null) {
        write(line.cells.item(7), "never");
        line.cells[7].title = "Known from events or anomalies: no snapshot has listed it";
      }
    });
  }
  const range = skills.length ? `${whole.format(offset + 1)}–${whole.format(offset + skills.length)} of ` : "";
  const all = matched === total ? count(total, "skill") : `${whole.format(matched)} that match, ${whole.format(total)} in all`;
  write(byId("skill-count"), range + all);
  byId("previous").disabled = offset === 0;
  byId("next").disabled = offset + skills.length >= matched;
  byId("previous").parentElement.hidden = matched <= ROWS && offset === 0;
  setClampedStops(body);
  showCut();
}

/** Names the columns beyond the edges of the table or under the sorted column, which is always in sight, and shades these edges. */
function showCut() {
  const header = table.tHead.rows[0].cells;
  table.style.setProperty("--name-width", `${header[0].offsetWidth}px`);
  const { left, right } = frame.getBoundingClientRect(), begin = left + header[0].offsetWidth;
  const sorted = COLUMNS.findIndex(([key]) => key === requested.sort), sortedBox = header[sorted].getBoundingClientRect();
  const cut = { left: [], right: [] };
  [...header].forEach((cell, index) => {
    if (index === 0 || index === sorted) return;
    const box = cell.getBoundingClientRect();
    const isBefore = index < sorted;
    if (box.right > (isBefore ? Math.min(right, sortedBox.left) : right) + 1) cut.right.push(COLUMNS[index][1]);
    else if (box.left < (isBefore || sorted === 0 ? begin : Math.max(begin, sortedBox.right)) - 1) cut.left.push(COLUMNS[index][1]);
  });
  for (const side of ["left", "right"]) frame.classList.toggle(`cut-${side}`, cut[side].length > 0);
  const parts = [];
  if (cut.left.length > 0) parts.push(`← ${cut.left.join(", ")}`);
  if (cut.right.length > 0) parts.push(`${cut.right.join(", ")} →`);
  write(byId("cut"), parts.length > 0 ? `Scroll the table for ${parts.join(" · ")}` : "");
}

frame.addEventListener("scroll", showCut);
new ResizeObserver(() => {
  showCut();
  setClampedStops(document);
}).observe(frame);

// ---- Refreshing ----

/** Runs `action`, and shows whether the bridge answered. */
async function refresh(action) {
  try {
    await action();
    refreshError = null;
  } catch (error) {
    refreshError = error;
  }
  showLamp();
  return refreshError === null;
}

async function requestPoints() {
  const after = latestSeconds();
  return (await request(`history${after === null ? "" : `?after=${after}`}`)).points;
}

const refreshHistory = () => refresh(async () => {
  let more = await requestPoints();
  if (losesCoverage(more)) {
    // It is noticed late, and points since the last data have changed.
    clearPoints();
    more = await requestPoints();
  }
  showPoints(more);
});

async function refreshStatus() {
  const isAnswered = await refresh(async () => {
    const status = await request("status");
    bridgeAheadSeconds = status.now_seconds - Date.now() / 1000;
    const isOther = startedSeconds !== null && startedSeconds !== status.started_seconds;
    // Points of another process, or of a clock that was set back, do not continue.
    if (isOther || latestSeconds() > status.now_seconds + 1) clearPoints();
    startedSeconds = status.started_seconds;
    showStatus(status);
  });
  if (isAnswered) await refreshSkills();
}

const resumed = new EventTarget();
const resume = () => resumed.dispatchEvent(new Event("resume"));
document.addEventListener("visibilitychange", resume);
byId("pause").addEventListener("click", () => {
  pausedAt = pausedAt === null ? bridgeNow() : null;
  write(byId("pause"), pausedAt === null ? "Pause" : "Resume");
  showLamp();
  if (pausedAt === null) resume();
});

/** One request after the other, and none while the page is hidden or paused. */
async function repeat(action, everyMs) {
  for (;;) {
    await action();
    await new Promise((resolve) => setTimeout(resolve, everyMs));
    while (document.hidden || pausedAt !== null) await new Promise((resolve) => resumed.addEventListener("resume", resolve, { once: true }));
  }
}

repeat(refreshStatus, STATUS_EVERY_MS);
repeat(refreshHistory, HISTORY_EVERY_MS);
