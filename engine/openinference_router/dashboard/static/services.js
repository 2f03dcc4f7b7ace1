// What the page shows of services, as trees of elements: values in, no state kept here.

import { sparkline } from "./chart.js";
import { h, s } from "./dom.js";
import { age, number, percent, plural } from "./format.js";

const SIGNS = { good: "●", busy: "◐", bad: "▲", asleep: "○" };
const ASLEEP = ["Suspended", "ScaledToZero"];
const BUSY = ["Starting", "RollingOut", "ScalingDown"];

export function badge(tone, text) {
  return h("span", { class: `badge ${tone}` }, h("span", { "aria-hidden": "true" }, SIGNS[tone]), " ", text);
}

/** How a service is in one word, by its conditions, or by its replicas where those are unknown. */
export function state(service) {
  const ready = condition(service, "Ready");
  if (!ready) {
    const admitted = service.replicas.filter((replica) => replica.admitted).length;
    return admitted ? { tone: "good", text: "Serving" } : { tone: "busy", text: "No replica yet" };
  }
  const asleep = [ready.reason, condition(service, "Available")?.reason].find((reason) => ASLEEP.includes(reason));
  if (asleep) return { tone: "asleep", text: spaced(asleep) };
  if (ready.status === "True") return { tone: "good", text: spaced(ready.reason) };
  if (ready.reason === "Complete") return { tone: "asleep", text: "No replicas" };
  return { tone: BUSY.includes(ready.reason) ? "busy" : "bad", text: spaced(ready.reason) };
}

export function glance(overview, history) {
  const { services } = overview;
  const good = services.filter((service) => ["good", "asleep"].includes(state(service).tone)).length;
  const routable = sum(services, (service) => service.replicas.filter((replica) => replica.admitted).length);
  const seats = sum(services, (service) => sum(service.replicas, (replica) => replica.load?.seats ?? 0));
  const running = sum(services, (service) => sum(service.replicas, (replica) => replica.load?.running ?? 0));
  const speed = sum(services, (service) => latest(history, service.name, "tokensPerSecond") ?? 0);
  return [
    tile("Healthy services", `${good} of ${services.length}`, good === services.length ? "" : "attention"),
    tile("Replicas answering", number(routable)),
    tile("Seats taken", seats ? `${number(running)} of ${number(seats)}` : "–"),
    tile("Requests waiting", number(sum(services, (service) => service.held))),
    tile("Tokens per second", number(speed)),
  ];
}

function tile(name, value, mood = "") {
  return h("dl", { class: `card tile ${mood}`, "data-key": name }, h("dt", {}, name), h("dd", {}, value));
}

export function list(overview, history, selected) {
  if (!overview.services.length) {
    return [h("p", { class: "muted", "data-key": "none" },
      "No InferenceService here yet. Apply one and it appears at once.")];
  }
  return overview.services.map((service) => {
    const { tone, text } = state(service);
    return h("button", {
      type: "button",
      class: "card service",
      "data-key": service.name,
      "data-service": service.name,
      "aria-current": service.name === selected ? "true" : null,
    },
      h("span", { class: "name" }, service.name),
      badge(tone, text),
      h("span", { class: "muted" }, counted(service), service.held ? ` · ${plural(service.held, "request")} waiting` : null),
      sparkline(history?.services[service.name]?.tokensPerSecond ?? []));
  });
}

export function heading(service) {
  const { tone, text } = state(service);
  const ready = condition(service, "Ready");
  return [
    h("div", { class: "row wrap" }, h("h2", {}, service.name), badge(tone, text)),
    h("p", { class: "muted" },
      service.model ? ["model ", h("code", {}, service.model), " · "] : null, counted(service),
      service.status?.url ? [" · ", h("code", {}, service.status.url)] : null),
    tone === "good" || !ready ? null : h("p", { class: `banner ${tone}` }, ready.message),
  ];
}

/** How far the wanted revision is; null while nothing changes. */
export function rollout(service) {
  const status = service.status;
  if (!changing(service)) return null;
  const progressing = condition(service, "Progressing");
  const desired = Math.max(1, wanted(service) ?? 0);
  const failed = progressing?.reason === "RolledBack";
  const name = failed ? "Rolled back" : status.currentRevision ? "Rolling out" : "First rollout";
  return h("section", { class: "card rollout", "data-key": "rollout", "aria-label": "Rollout" },
    h("div", { class: "row wrap" }, h("h3", {}, name), revisions(status),
      h("strong", {}, `${status.updatedReplicas} of ${desired} updated`)),
    h("progress", { max: desired, value: Math.min(desired, status.updatedReplicas), "aria-label": "Replicas updated" }),
    progressing ? h("p", { class: "muted" }, progressing.message) : null);
}

/** The revision that is being rolled out; null while nothing changes. */
function changing({ status }) {
  return status?.updateRevision !== status?.currentRevision ? status.updateRevision : null;
}

function revisions({ currentRevision, updateRevision }) {
  return h("span", { class: "revisions" },
    currentRevision ? [h("code", {}, currentRevision), " → "] : null, h("code", { class: "new" }, updateRevision));
}

export function replicas(service) {
  const rows = service.replicas.map((replica) => replicaRow(replica, changing(service)));
  return h("section", { class: "card", "data-key": "replicas" },
    h("h3", {}, "Replicas"),
    rows.length
      ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of replicas" },
        h("table", {},
          h("thead", {}, h("tr", {}, ["Replica", "State", "Revision", "Seats", "Waiting inside", "KV cache", "Decode speed"]
            .map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, rows)))
      : h("p", { class: "muted" }, service.suspended
        ? "None: the service is suspended." : "None. Requests wait here until one is ready."));
}

function replicaRow(replica, newRevision) {
  const { load } = replica;
  const [tone, text] = replicaState(replica);
  return h("tr", { "data-key": replica.id },
    h("th", { scope: "row" }, h("code", {}, replica.id)),
    cell("State", badge(tone, text)),
    cell("Revision", h("code", { class: replica.revision === newRevision ? "new" : "" }, replica.revision)),
    cell("Seats", load ? meter(load.running, load.seats, `${load.running} of ${load.seats}`) : "–"),
    cell("Waiting inside", load ? number(load.waiting) : "–"),
    cell("KV cache", load ? meter(load.kvUsage, 1, percent(load.kvUsage)) : "–"),
    cell("Decode speed", load?.decodeTokensPerSecond ? `${number(load.decodeTokensPerSecond)} tok/s` : "–"));
}

function cell(name, ...children) {
  return h("td", { "data-name": name }, children);
}

function meter(value, max, text) {
  const filled = s("rect", { width: 52 * Math.min(1, value / max), height: 8 });
  return h("span", { class: "meter" }, s("svg", { class: "gauge", "aria-hidden": "true" }, filled), text);
}

function replicaState({ state, admitted, load }) {
  if (state === "Draining" || load?.draining) return ["busy", "draining"];
  if (admitted) return ["good", "serving"];
  if (!load) return ["busy", "not heard yet"];
  return load.ready ? ["bad", "ejected"] : ["busy", "starting"];
}

/** Each condition as a question with its answer, and what to do where the answer is a bad one. */
export function conditions(service, words) {
  const known = service.status?.conditions ?? [];
  if (!known.length) return null;
  return h("section", { class: "card", "data-key": "conditions" }, h("h3", {}, "Conditions"),
    h("ul", { class: "conditions" }, known.map((each) => {
      const tone = conditionTone(each);
      const word = words.reasons[each.reason];
      return h("li", { "data-key": each.type },
        h("p", { class: "row wrap" }, badge(tone, each.type), h("span", { class: "muted" },
          `${spaced(each.reason)}, ${age(each.lastTransitionTime)}`)),
        h("p", {}, each.message || word?.means || ""),
        tone === "bad" && word?.remedy ? h("p", { class: "remedy" }, h("strong", {}, "What to do: "), word.remedy) : null);
    })));
}

function conditionTone({ type, status, reason }) {
  if (ASLEEP.includes(reason)) return "asleep";
  if (BUSY.includes(reason)) return "busy";
  const isGood = type === "ScalingLimited" ? status === "False" : status === "True";
  return isGood ? "good" : status === "Unknown" || type === "ScalingLimited" ? "busy" : "bad";
}

export function happenings(service, events) {
  const own = events.filter((event) => event.service === service.name);
  return h("section", { class: "card", "data-key": "events" }, h("h3", {}, "Events"),
    own.length
      ? h("ol", { class: "events" }, own.map((event) =>
        h("li", { "data-key": `${event.reason} ${event.message}` },
          h("time", { datetime: event.at, title: event.at }, age(event.at)),
          h("span", { class: event.type === "Warning" ? "warning" : "" }, h("strong", {}, spaced(event.reason)), " ", event.message,
            event.count > 1 ? h("span", { class: "muted" }, ` ×${event.count}`) : null))))
      : h("p", { class: "muted" }, "Nothing lately."));
}

function condition(service, type) {
  return service.status?.conditions?.find((each) => each.type === type);
}

/** "2 of 3 replicas": those that this router sends requests to, of those wanted. */
function counted(service) {
  const admitted = service.replicas.filter((replica) => replica.admitted).length;
  const desired = wanted(service);
  return desired == null ? plural(admitted, "replica") : `${admitted} of ${plural(desired, "replica")}`;
}

function wanted(service) {
  const desired = Number.parseInt(service.status?.replicasSummary?.split("/")[1], 10);
  return Number.isNaN(desired) ? null : desired;
}

function latest(history, service, series) {
  return history?.services[service]?.[series]?.at(-1);
}

function sum(items, value) {
  return items.reduce((total, item) => total + value(item), 0);
}

/** RollingOut → Rolling out */
function spaced(reason) {
  const words = reason.replace(/([a-z])([A-Z])/g, "$1 $2");
  return words.charAt(0) + words.slice(1).replace(/\b[A-Z](?=[a-z])/g, (letter) => letter.toLowerCase());
}
