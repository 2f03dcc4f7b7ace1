// Numbers and times as people read them. Units are in the text, never in the reader's head.

const ages = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "narrow" });

/** 0, 0.42, 7.3, 128, 12,345 */
export function number(value) {
  if (value == null) return "–";
  const digits = value === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** Seconds as µs, ms, s or min. */
export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${number(seconds * 1e6)} µs`;
  if (seconds < 1) return `${number(seconds * 1e3)} ms`;
  if (seconds < 120) return `${number(seconds)} s`;
  return `${number(seconds / 60)} min`;
}

export function percent(share) {
  return share == null ? "–" : `${Math.round(share * 100)} %`;
}

/** How long ago an RFC 3339 moment was. */
export function age(text, now = Date.now()) {
  const seconds = (Date.parse(text) - now) / 1000;
  if (Number.isNaN(seconds)) return "";
  if (seconds > -5) return "now";
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (-seconds >= length) return ages.format(Math.trunc(seconds / length), unit);
  }
  return ages.format(Math.trunc(seconds), "second");
}

export function plural(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}
