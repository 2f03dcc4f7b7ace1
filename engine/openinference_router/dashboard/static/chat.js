// The chat box: one conversation with one model, streamed, saying how fast and by which replica.

import { h, show } from "./dom.js";
import { duration, number } from "./format.js";
import { ask, events } from "./stream.js";

const element = (id) => document.getElementById(id);

export class Chat {
  constructor(onRefused) {
    this.history = [];
    this.running = null;
    this.onRefused = onRefused;
    this.messages = element("messages");
    this.prompt = element("prompt");
    element("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.running.abort();
      else this.send();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.running) this.send();
    });
    element("clear").addEventListener("click", () => {
      this.history = [];
      this.messages.replaceChildren();
      this.prompt.focus();
    });
  }

  /** Offer these models, keeping the chosen one; `wished` is taken when none was chosen by hand. */
  offer(models, wished) {
    const select = element("model");
    const chosen = select.dataset.chosen ?? wished;
    select.onchange = () => (select.dataset.chosen = select.value);
    show(select, models.map((model) => h("option", { value: model, "data-key": model }, model)));
    select.value = models.includes(chosen) ? chosen : (models[0] ?? "");
  }

  async send() {
    const text = this.prompt.value.trim();
    const model = element("model").value;
    if (!text || !model) return;
    this.prompt.value = "";
    this.history.push({ role: "user", content: text });
    this.messages.append(h("li", { class: "user" }, h("span", { class: "hidden" }, "You: "), h("p", { class: "bubble" }, text)));
    const answer = new Answer(model);
    this.messages.append(answer.element);
    this.scroll();
    await this.stream(model, answer);
  }

  async stream(model, answer) {
    this.running = new AbortController();
    element("send").textContent = "Stop";
    element("answered").textContent = "";
    try {
      await this.read(model, answer);
      element("answered").textContent = `${model}: ${answer.text}`;
    } catch (error) {
      answer.fail(error);
      if (error.status === 401) this.onRefused();
    } finally {
      if (answer.text) this.history.push({ role: "assistant", content: answer.text });
      else this.history.pop();
      this.running = null;
      element("send").textContent = "Send";
      this.scroll();
    }
  }

  async read(model, answer) {
    const response = await ask("../v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      signal: this.running.signal,
      body: JSON.stringify({
        model,
        messages: this.history,
        stream: true,
        stream_options: { include_usage: true },
        temperature: Number(element("temperature").value),
        max_tokens: Number(element("most-tokens").value),
      }),
    });
    answer.by(response.headers.get("x-openinference-group"));
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      answer.take(JSON.parse(data));
      this.scroll();
    }
    answer.end();
  }

  scroll() {
    this.messages.scrollTop = this.messages.scrollHeight;
  }
}

class Answer {
  constructor(model) {
    this.text = "";
    this.askedAt = performance.now();
    this.firstAt = null;
    this.tokens = 0;
    this.group = "";
    this.body = h("p", { class: "bubble waiting" }, "waiting for the first token");
    this.note = h("p", { class: "note" });
    this.element = h("li", { class: "assistant" }, h("span", { class: "hidden" }, `${model}: `), this.body, this.note);
  }

  by(group) {
    this.group = group ?? "";
  }

  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) this.tokens = chunk.usage.completion_tokens;
    const piece = chunk.choices[0]?.delta?.content;
    if (!piece) return;
    if (this.firstAt === null) {
      this.firstAt = performance.now();
      this.body.classList.remove("waiting");
    }
    if (!chunk.usage) this.tokens += 1;
    this.lastAt = performance.now();
    this.text += piece;
    this.body.textContent = this.text;
    this.tell();
  }

  tell() {
    const seconds = (this.lastAt - this.firstAt) / 1000;
    const speed = seconds > 0 && this.tokens > 1 ? `${number((this.tokens - 1) / seconds)} tok/s` : null;
    const first = `first token after ${duration((this.firstAt - this.askedAt) / 1000)}`;
    const who = this.group ? `answered by ${this.group}` : null;
    this.note.textContent = [speed, first, who].filter(Boolean).join(" · ");
  }

  end() {
    if (this.firstAt !== null) return this.tell();
    this.body.textContent = "(an empty answer)";
  }

  fail(error) {
    const isStopped = error.name === "AbortError";
    this.body.classList.remove("waiting");
    if (!this.text) this.body.textContent = isStopped ? "(stopped)" : "";
    if (!isStopped) this.element.append(h("p", { class: "failure", role: "alert" }, error.message));
  }
}
