// Markdown to DOM nodes. Text only ever becomes text nodes: nothing a model writes is read as HTML.

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// Emphasis, code and links inside a line.
function inline(text) {
  const out = [];
  const pattern = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([^*\n]+)\*\*|__([^_\n]+)__|\*([^*\s][^*\n]*)\*|~~([^~\n]+)~~|\[([^\]\n]*)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/g;
  let last = 0;
  for (const m of text.matchAll(pattern)) {
    if (m.index > last) out.push(text.slice(last, m.index));
    last = m.index + m[0].length;
    if (m[1]) out.push(element("code", "", m[2].trim()));
    else if (m[3] || m[4]) out.push(element("strong", "", ...inline(m[3] || m[4])));
    else if (m[5]) out.push(element("em", "", ...inline(m[5])));
    else if (m[6]) out.push(element("s", "", ...inline(m[6])));
    else {
      const link = element("a", "", m[7] || m[8] || m[9]);
      link.href = m[8] || m[9];
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
      out.push(link);
    }
  }
  if (last < text.length) out.push(text.slice(last));
  return out;
}

function codeBlock(language, text) {
  const copy = element("button", "", "Copy");
  copy.type = "button";
  copy.setAttribute("aria-label", "Copy code");
  copy.addEventListener("click", async () => {
    await copyText(text);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  return element("div", "code", element("div", "bar", element("span", "", language), copy), element("pre", "", element("code", "", text)));
}

export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", "hidden");  // pages without TLS have no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

export function markdown(text) {
  const out = [];
  const lines = text.split("\n");
  let i = 0;
  const collect = (test, strip) => {
    const taken = [];
    while (i < lines.length && test(lines[i])) taken.push(strip(lines[i++]));
    return taken;
  };
  while (i < lines.length) {
    const line = lines[i];
    const fence = line.match(/^\s*(```+|~~~+)\s*([^\s`]*)/);
    if (fence) {
      i++;
      const body = collect((l) => !l.trim().startsWith(fence[1]), (l) => l);
      i++;
      out.push(codeBlock(fence[2], body.join("\n")));
    } else if (/^#{1,6}\s/.test(line)) {
      const level = Math.min(4, line.match(/^#+/)[0].length + 1);
      out.push(element("h" + level, "", ...inline(line.replace(/^#+\s*/, ""))));
      i++;
    } else if (/^\s*>/.test(line)) {
      const body = collect((l) => /^\s*>/.test(l), (l) => l.replace(/^\s*>\s?/, ""));
      out.push(element("blockquote", "", ...markdown(body.join("\n"))));
    } else if (/^\s*([-*+]|\d+[.)])\s/.test(line)) {
      const ordered = /^\s*\d/.test(line);
      const list = element(ordered ? "ol" : "ul");
      if (ordered) list.start = parseInt(line, 10) || 1;
      while (i < lines.length && /^\s*([-*+]|\d+[.)])\s/.test(lines[i]) && /^\s*\d/.test(lines[i]) === ordered) {
        const item = [lines[i++].replace(/^\s*([-*+]|\d+[.)])\s+/, "")];
        while (i < lines.length && /^\s{2,}\S/.test(lines[i]) && !/^\s{0,1}([-*+]|\d+[.)])\s/.test(lines[i])) item.push(lines[i++].replace(/^\s{2,4}/, ""));
        list.append(item.length > 1 ? element("li", "", ...markdown(item.join("\n"))) : element("li", "", ...inline(item[0])));
        if (lines[i] === "" && /^\s*([-*+]|\d+[.)])\s/.test(lines[i + 1] || "")) i++;
      }
      out.push(list);
    } else if (/\|/.test(line) && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[i + 1] || "") && lines[i + 1].includes("-")) {
      const table = element("table");
      const row = (name, line) => table.append(element("tr", "", ...cells(line).map((c) => element(name, "", ...inline(c)))));
      row("th", line);
      i += 2;
      while (i < lines.length && lines[i].includes("|")) row("td", lines[i++]);
      out.push(table);
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      out.push(element("hr"));
      i++;
    } else if (line.trim() === "") {
      i++;
    } else {
      const body = [line];
      i++;
      while (i < lines.length && lines[i].trim() !== "" && !/^\s*(```|~~~|#{1,6}\s|>|[-*+]\s|\d+[.)]\s)/.test(lines[i])) body.push(lines[i++]);
      out.push(element("p", "", ...inline(body.join("\n"))));
    }
  }
  return out;
}
