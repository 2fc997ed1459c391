// The server's endpoints as the page uses them.

export class ApiError extends Error {}

export const settings = {
  values: JSON.parse(localStorage.getItem("optiq-settings") || "{}"),
  save() {
    const { key, ...kept } = this.values;
    localStorage.setItem("optiq-settings", JSON.stringify(kept));
    sessionStorage.setItem("optiq-key", key || "");  // a key is forgotten with the tab
  },
};
settings.values.key = sessionStorage.getItem("optiq-key") || "";

function headers() {
  const out = { "content-type": "application/json" };
  if (settings.values.key) out.authorization = "Bearer " + settings.values.key;
  return out;
}

async function failure(response) {
  let text = `${response.status} ${response.statusText}`;
  try {
    text = (await response.json()).error.message;
  } catch {}
  return new ApiError(text);
}

export async function getJson(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw await failure(response);
  return response.json();
}

// Calls onChunk with every event of a streamed chat.
export async function streamChat(body, signal, onChunk) {
  const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError("the connection ended before the answer did");
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = text.slice(0, end);
      text = text.slice(end + 2);
      if (!event.startsWith("data: ")) continue;
      if (event === "data: [DONE]") return;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new ApiError(chunk.error.message);
      onChunk(chunk);
    }
  }
}
