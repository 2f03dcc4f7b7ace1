// The page's life: follow the router, keep what was heard last, and draw it.

import { Chart } from "./chart.js";
import { Chat } from "./chat.js";
import { h, show } from "./dom.js";
import { duration, number } from "./format.js";
import * as views from "./services.js";
import { ask, events, keep, Refused } from "./stream.js";

const RETRY_MS = 2000;
const element = (id) => document.getElementById(id);

const page = { overview: null, history: null, words: { reasons: {} }, selected: location.hash.slice(1) };

const charts = [
  new Chart("Tokens per second", [{ key: "tokensPerSecond", label: "tokens/s" }], number),
  new Chart("Requests", [{ key: "running", label: "running" }, { key: "waiting", label: "waiting" }], number),
  new Chart("Time to first token", [{ key: "firstTokenP50", label: "median" }, { key: "firstTokenP95", label: "95th" }], duration),
  new Chart("Time per token", [{ key: "perTokenP50", label: "median" }, { key: "perTokenP95", label: "95th" }], duration),
];
const chartGrid = h("div", { class: "charts", "data-own": "charts", "data-key": "charts" }, charts.map((chart) => chart.element));
const chat = new Chat(askForKey);

function draw() {
  const { overview, history } = page;
  if (!overview) return;
  const service = overview.services.find(({ name }) => name === page.selected) ?? overview.services[0];
  element("namespace").textContent = overview.namespace;
  document.title = `${overview.namespace} – OpenInference`;
  notice(overview.trouble && `The cluster tells only a part: ${overview.trouble}`);
  show(element("glance"), views.glance(overview, history));
  show(element("services"), views.list(overview, history, service?.name));
  if (!service) return show(element("detail"), h("p", { class: "muted" }, "Nothing is served here yet."));
  element("detail").setAttribute("aria-label", `Service ${service.name}`);
  show(element("detail"),
    h("header", { "data-key": "heading" }, views.heading(service)),
    views.rollout(service), chartGrid, source(history), views.replicas(service),
    views.conditions(service, page.words), views.happenings(service, overview.events));
  drawCharts(service);
  chat.offer([...new Set(overview.services.map(({ model }) => model).filter(Boolean))], service.model);
}

function drawCharts(service) {
  const { history } = page;
  if (!history) return;
  const series = history.services[service.name] ?? {};
  for (const chart of charts) chart.update({ ...history, series });
}

function source(history) {
  if (!history) return null;
  const text = history.source === "prometheus"
    ? "The last hour from Prometheus: all routers of this namespace together."
    : "The last hour as this router pod saw it; set prometheus.url in the chart's values for all of them together.";
  return h("p", { class: "muted small", "data-key": "source" }, history.note || text);
}

function notice(text) {
  element("notice").hidden = !text;
  if (element("notice").textContent !== (text || "")) element("notice").textContent = text || "";
}

function connection(text, isLive) {
  element("connection").textContent = text;
  element("connection").classList.toggle("live", isLive);
}

async function follow() {
  for (;;) {
    try {
      const response = await ask("api/overview");
      for await (const data of events(response)) {
        page.overview = JSON.parse(data);
        connection(`live from ${page.overview.router}`, true);
        draw();
      }
      connection("reconnecting", false);
    } catch (error) {
      connection(error instanceof Refused ? error.message : "the router does not answer; trying again", false);
      if (error.status === 401) await askForKey();
    }
    await pause(RETRY_MS);
  }
}

async function remember() {
  for (;;) {
    try {
      if (!document.hidden) page.history = await (await ask("api/history")).json();
      draw();
    } catch {
      // The other stream says what is wrong.
    }
    await pause(1000 * (page.history?.stepSeconds ?? 2));
  }
}

let asking = null;

/** Asks once, however many requests were refused. */
function askForKey() {
  const dialog = element("key-dialog");
  asking ??= new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      keep(element("key").value.trim());
      element("key").value = "";
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function select(name) {
  page.selected = name;
  window.history.replaceState(null, "", `#${name}`);
  delete element("model").dataset.chosen;
  draw();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  element("theme").textContent = `Theme: ${name}`;
  localStorage.setItem("openinference-theme", name);
}

element("services").addEventListener("click", (event) => {
  const button = event.target.closest("[data-service]");
  if (button) select(button.dataset.service);
});
element("theme").addEventListener("click", () => {
  const names = ["auto", "light", "dark"];
  theme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});
window.addEventListener("hashchange", () => select(location.hash.slice(1)));

theme(localStorage.getItem("openinference-theme") ?? "auto");
page.words = await (await ask("reasons.json")).json();
follow();
remember();
