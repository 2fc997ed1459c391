// The view of the model: bits by layer, keys and values, memory and queue.
import { getJson } from "/web/api.js";

const bytes = (n) => {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let u = 0;
  while (n >= 1000 && u < 4) (n /= 1000), u++;
  return (u && n < 100 ? n.toFixed(n < 10 ? 2 : 1) : Math.round(n)) + " " + units[u];
};
const count = (n) => n.toLocaleString("en");

function node(name, className, ...children) {
  const out = document.createElement(name);
  if (className) out.className = className;
  out.append(...children);
  return out;
}

function tile(value, label, part) {
  const out = node("div", "tile", node("b", "", value), node("span", "", label));
  if (part !== undefined) {
    const bar = node("i");
    bar.style.width = Math.min(100, 100 * part) + "%";
    out.append(node("div", "meter", bar));
  }
  return out;
}

function bitsTable(modules) {
  const layers = [...new Set(modules.filter((m) => m.layer >= 0).map((m) => m.layer))].sort((a, b) => a - b);
  const kinds = [...new Set(modules.filter((m) => m.layer >= 0).map((m) => m.name))];
  const table = node("table", "bits");
  const head = node("tr", "", node("th", "", "layer"));
  for (const layer of layers) head.append(node("th", "", String(layer)));
  table.append(head);
  for (const kind of kinds) {
    const row = node("tr", "", node("th", "", kind));
    for (const layer of layers) {
      const m = modules.find((x) => x.layer === layer && x.name === kind);
      const cell = node("td", m ? "b" + m.bits : "", m ? String(m.bits) : "");
      if (m) cell.title = `${m.path}: ${m.bits} bits${m.group_size ? " in groups of " + m.group_size : ""}`;
      row.append(cell);
    }
    table.append(row);
  }
  return node("div", "scroll", table);
}

export function modelView(root) {
  let timer = 0, shown = false;
  async function draw() {
    const props = await getJson("/props");
    const s = props.stats, info = props.model_info;
    const budget = s.kv_bytes_budget || 1;
    const live = node("div", "tiles",
      tile(count(s.running), "running"), tile(count(s.waiting), "waiting"),
      tile(bytes(s.kv_bytes_active), "keys and values in use", s.kv_bytes_active / budget),
      tile(bytes(s.kv_bytes_cached), "kept for later prompts", s.kv_bytes_cached / budget),
      tile(bytes(s.kv_bytes_budget), "budget"),
      tile(count(s.prompt_tokens), "prompt tokens"), tile(count(s.cached_tokens), "of them cached"), tile(count(s.completion_tokens), "tokens generated"));
    if (!shown) {
      root.replaceChildren(node("h2", "", "Now"), live);
      if (info.params) {
        root.append(node("h2", "", "Model"), node("div", "tiles", tile(props.model, info.model_type), tile(count(info.params), "weights"), tile(bytes(info.bytes), "of weights"),
          tile((8 * info.bytes / info.params).toFixed(2), "bits per weight"), tile(count(props.context_length), "tokens of context"), tile(count(props.max_concurrent), "at once, at most")));
        root.append(node("h2", "", "Bits by layer"), bitsTable(info.modules));
        const others = info.modules.filter((m) => m.layer < 0);
        if (others.length) root.append(node("p", "", others.map((m) => `${m.path}: ${m.bits} bits`).join("; ")));
      }
      if (info.kv) {
        root.append(node("h2", "", "Keys and values"));
        for (const line of info.kv) root.append(node("p", "", line));
      }
      shown = true;
    } else {
      root.children[1].replaceWith(live);
    }
  }
  return {
    start(onError) {
      shown = false;
      draw().catch(onError);
      timer = setInterval(() => draw().catch(() => {}), 1000);
    },
    stop() {
      clearInterval(timer);
    },
  };
}
