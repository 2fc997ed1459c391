// The page: a conversation, its settings, and the view of the model.
import { getJson, settings, streamChat } from "/web/api.js";
import { copyText, markdown } from "/web/markdown.js";
import { modelView } from "/web/model.js";

const $ = (id) => document.getElementById(id);
let messages = [];  // {role, content, reasoning?}
let running = null;  // AbortController of the answer that is coming
let props = null;

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => ($("toast").hidden = true), 6000);
}

function button(text, label, action) {
  const out = document.createElement("button");
  out.type = "button";
  out.textContent = text;
  out.setAttribute("aria-label", label);
  out.addEventListener("click", action);
  return out;
}

function bubble(role) {
  const out = document.createElement("article");
  out.className = "message " + role;
  out.setAttribute("aria-label", role === "user" ? "You" : "Answer");
  $("messages").append(out);
  return out;
}

// An answer as it grows: thought, text, and a line about speed.
class AnswerView {
  constructor() {
    this.root = bubble("assistant");
    this.thought = document.createElement("details");
    this.thought.className = "thought";
    this.thought.hidden = true;
    const summary = document.createElement("summary");
    summary.textContent = "Thought";
    this.thoughtText = document.createElement("div");
    this.thought.append(summary, this.thoughtText);
    this.body = document.createElement("div");
    this.foot = document.createElement("div");
    this.foot.className = "foot";
    this.root.append(this.thought, this.body, this.foot);
    this.pending = false;
  }
  show(answer, live) {
    this.answer = answer;
    this.live = live;
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      const at_end = $("messages").scrollHeight - $("messages").scrollTop - $("messages").clientHeight < 80;
      this.thought.hidden = !this.answer.reasoning;
      this.thoughtText.textContent = this.answer.reasoning || "";
      this.body.className = this.live ? "typing" : "";
      this.body.replaceChildren(...markdown(this.answer.content));
      if (at_end) $("messages").scrollTop = $("messages").scrollHeight;
    });
  }
  finish(text) {
    this.foot.replaceChildren(text, button("Copy", "Copy answer", () => copyText(this.answer.content)));
  }
  fail(text) {
    const line = document.createElement("p");
    line.className = "error";
    line.textContent = text;
    this.root.append(line);
  }
}

function requestBody() {
  const v = settings.values;
  const body = { model: v.adapter || props.model, messages: [], stream: true, stream_options: { include_usage: true } };
  if (v.system) body.messages.push({ role: "system", content: v.system });
  for (const m of messages) body.messages.push({ role: m.role, content: m.content });
  for (const name of ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"]) {
    if (v[name] !== undefined && v[name] !== "") body[name] = Number(v[name]);
  }
  if (v.thinking) body.chat_template_kwargs = { enable_thinking: v.thinking === "on" };
  return body;
}

async function send(text) {
  messages.push({ role: "user", content: text });
  bubble("user").textContent = text;
  const answer = { role: "assistant", content: "", reasoning: "" };
  const view = new AnswerView();
  view.show(answer, true);
  $("messages").scrollTop = $("messages").scrollHeight;
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  const start = performance.now();
  let first = 0, usage = null, finish = "";
  try {
    await streamChat(requestBody(), running.signal, (chunk) => {
      if (chunk.usage) usage = chunk.usage;
      const choice = chunk.choices[0];
      if (!choice) return;
      if (choice.finish_reason) finish = choice.finish_reason;
      if (!choice.delta.content && !choice.delta.reasoning_content) return;
      if (!first) first = performance.now();
      answer.content += choice.delta.content || "";
      answer.reasoning += choice.delta.reasoning_content || "";
      view.show(answer, true);
    });
  } catch (error) {
    if (error.name === "AbortError") finish = "stopped";
    else {
      view.fail(error.message);
      toast(error.message);
    }
  }
  const end = performance.now();
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  view.show(answer, false);
  if (answer.content || answer.reasoning) messages.push(answer);
  else messages.pop();
  let note = finish === "length" ? "cut off at the limit" : finish === "stopped" ? "stopped" : "";
  if (usage && first) {
    const rate = usage.completion_tokens > 1 ? (usage.completion_tokens - 1) / ((end - first) / 1000) : 0;
    note = `${usage.completion_tokens} tokens, ${rate.toFixed(1)} tok/s, first after ${((first - start) / 1000).toFixed(2)} s` +
      (usage.prompt_tokens_details.cached_tokens ? `, ${usage.prompt_tokens_details.cached_tokens} prompt tokens cached` : "") + (note ? ", " + note : "");
  }
  view.finish(note);
  $("prompt").focus();
}

function fillSettings() {
  const form = $("settings-form");
  for (const field of form.elements) {
    if (field.name) field.value = settings.values[field.name] ?? "";
  }
  for (const [name, value] of Object.entries({ ...props.sampling, max_tokens: props.max_tokens })) {
    if (form.elements[name]) form.elements[name].placeholder = String(value);
  }
}

async function loadProps() {
  props = await getJson("/props");
  $("model-name").textContent = props.model;
  document.title = props.model + " - optiq";
  $("thinking-label").hidden = !props.reasoning;
  const select = $("settings-form").elements.adapter;
  select.length = 1;
  for (const name of props.adapters) select.add(new Option(name, name));
  if (!props.adapters.includes(settings.values.adapter)) settings.values.adapter = "";
  fillSettings();
}

const view = modelView($("model"));
function show(which) {
  $("chat").hidden = which !== "chat";
  $("model").hidden = which !== "model";
  $("show-chat").setAttribute("aria-pressed", which === "chat");
  $("show-model").setAttribute("aria-pressed", which === "model");
  view.stop();
  if (which === "model") view.start((error) => toast(error.message));
  else $("prompt").focus();
}

$("show-chat").addEventListener("click", () => show("chat"));
$("show-model").addEventListener("click", () => show("model"));
$("show-settings").addEventListener("click", () => {
  $("settings").hidden = !$("settings").hidden;
  $("show-settings").setAttribute("aria-expanded", !$("settings").hidden);
});
$("settings-form").addEventListener("submit", (event) => event.preventDefault());
$("settings-form").addEventListener("change", (event) => {
  settings.values[event.target.name] = event.target.value;
  settings.save();
  if (event.target.name === "key") loadProps().catch((error) => toast(error.message));
});
$("reset-settings").addEventListener("click", () => {
  settings.values = { key: settings.values.key };
  settings.save();
  fillSettings();
});
$("export").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify({ model: props?.model, settings: { ...settings.values, key: undefined }, messages }, null, 2)], { type: "application/json" }));
  link.download = "chat.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
$("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  $("messages").replaceChildren();
  $("prompt").focus();
});
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

const prompt = $("prompt");
prompt.addEventListener("input", () => {
  prompt.style.height = "auto";
  prompt.style.height = prompt.scrollHeight + 2 + "px";
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (!text || running) return;
  prompt.value = "";
  prompt.style.height = "auto";
  (props ? Promise.resolve() : loadProps()).then(() => send(text)).catch((error) => toast(error.message));
});

loadProps().catch((error) => {
  toast(error.message);
  $("settings").hidden = false;
  $("show-settings").setAttribute("aria-expanded", true);
});
