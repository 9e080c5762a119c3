// Elements of the page, and numbers and times as text. Feeds name their skills: the page writes text, never markup.

export const byId = (id) => document.getElementById(id);

/** An element with a class and text, and children. */
export function element(tag, className, text, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

/** Writes text only where it differs, so that a selection or a screen reader is not disturbed. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Text of a feed as the log writes it: control, bidirectional and invisible characters are escaped. */
export const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);

/** Brings `list` to one child per entry and writes each. Existing children stay. */
export function fill(list, entries, make, writeOne) {
  while (list.children.length > entries.length) list.lastChild.remove();
  entries.forEach((entry, index) => {
    if (index === list.children.length) list.append(make());
    writeOne(list.children[index], entry);
  });
}

/** A name that takes two lines at the most, and is shown whole while it has the focus. */
export const clampedName = (tag) => element(tag, "clamped");

/** Makes each clamped name in `root` that is cut a stop of the keyboard, at which it is read out. */
export function setClampedStops(root) {
  // A name with the focus is shown whole. All are measured before any is written, for one layout.
  const names = [...root.querySelectorAll(".clamped")].filter((name) => name !== document.activeElement);
  const areCut = names.map((name) => name.scrollHeight > name.clientHeight + 1);
  names.forEach((name, index) => {
    if (areCut[index]) {
      name.tabIndex = 0;
      name.setAttribute("role", "group");
      name.setAttribute("aria-label", name.textContent);
    } else if (name.hasAttribute("tabindex")) {
      for (const attribute of ["tabindex", "role", "aria-label"]) name.removeAttribute(attribute);
    }
  });
}

/** A row of a table whose first cell is its header. */
export function tableRow(columns) {
  const header = element("th");
  header.scope = "row";
  return element("tr", "", null, header, ...Array.from({ length: columns - 1 }, () => element("td")));
}

/** The header of a column. */
export function columnHeader(...content) {
  const header = element("th", "", null, ...content);
  header.scope = "col";
  return header;
}

export const whole = new Intl.NumberFormat("en");
export const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
export const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const minuteClock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
/** Unknown, or there is none. */
export const NONE = "–";

export const timeOf = (seconds) => clock.format(seconds * 1000);
export const dateOf = (seconds) => date.format(seconds * 1000);

/** A number of things: `plural` is only needed where it is not `singular` with an s. */
export const count = (number, singular, plural = `${singular}s`) => `${whole.format(number)} ${number === 1 ? singular : plural}`;

/** Percent, never rounded to 0 or 100. */
export function percent(share) {
  if (share === null) return NONE;
  const text = (share * 100).toFixed(1);
  if (text === "100.0" && share < 1) return "> 99.9 %";
  if (text === "0.0" && share > 0) return "< 0.1 %";
  return `${text.replace(/\.0$/, "")} %`;
}

export function duration(seconds) {
  if (seconds === null) return NONE;
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`;
  const total = Math.round(seconds);
  const parts = [[Math.floor(total / 86400), "d"], [Math.floor(total / 3600) % 24, "h"], [Math.floor(total / 60) % 60, "min"], [total % 60, "s"]];
  const first = parts.findIndex(([number]) => number > 0);
  return parts.slice(first, first + 2).filter(([number]) => number > 0).map(([number, unit]) => `${number} ${unit}`).join(" ");
}

/** A span of time in its largest unit, so that it changes rarely. */
export function roughly(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["min", 60], ["s", 1]];
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["s", 1];
  const number = Math.max(0, Math.floor(seconds / size));
  return `${number} ${unit}${number !== 1 && size > 60 ? "s" : ""}`;
}

export const ago = (seconds) => (seconds < 5 ? "just now" : `${roughly(seconds)} ago`);

/** Writes how long ago a time was, with the whole date as a title. `now` is the bridge's clock, not the browser's. */
export function writeTime(node, atSeconds, now) {
  if (atSeconds === null) {
    write(node, NONE);
    node.removeAttribute("title");
    return;
  }
  write(node, ago(now - atSeconds));
  const full = dateOf(atSeconds);
  if (node.title === full) return;
  node.title = full;
  if (node.localName === "time") node.dateTime = new Date(atSeconds * 1000).toISOString();
}

/** Type, score and number of an anomaly. */
export function anomalyFacts(anomaly) {
  const facts = [anomaly.anomaly_type.replaceAll("_", " ")];
  if (anomaly.deviation_score !== null) facts.push(`${anomaly.deviation_score.toFixed(1)} σ`);
  if (anomaly.times > 1) facts.push(`${whole.format(anomaly.times)} times`);
  return facts;
}
