// What the page asks of the server that it came from, and of nobody else.

const KEPT = "edgecl-token"; // of this tab alone
const OWN = "/edgecl/v1/enrolled";
export const OUTPUTS = ["label", "score", "source", "known", "p", "set", "basis"];

export class Refused extends Error {
  constructor(status, text, wait = 2000) {
    super(text);
    this.status = status; // 0: nobody answers
    this.wait = wait; // milliseconds until asking again makes sense
  }
}

export const useToken = (text) => sessionStorage.setItem(KEPT, text);

async function call(path, { headers = {}, ...rest } = {}) {
  const token = sessionStorage.getItem(KEPT);
  const own = token ? { Authorization: `Bearer ${token}` } : {};
  let reply;
  try {
    reply = await fetch(path, { ...rest, headers: { ...headers, ...own }, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused(0, "The device does not answer.");
  }
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({}));
  const wait = Number(reply.headers.get("Retry-After") ?? 2) * 1000;
  throw new Refused(reply.status, said.error ?? `The device answered ${reply.status}.`, wait);
}

const asked = async (path, options) => (await call(path, options)).json();

export const status = () => asked("/edgecl/v1/status");
export const drift = () => asked("/edgecl/v1/drift");
export const enrolled = () => asked(OWN);
export const remove = (name) => asked(`${OWN}/${encodeURIComponent(name)}`, { method: "DELETE" });

export async function outputs() {
  const model = await asked("/v2/models/edgecl");
  const has = new Set(model.outputs.map((each) => each.name));
  return OUTPUTS.filter((name) => has.has(name));
}

// One image file, as a tensor of BYTES after the JSON (Triton's binary tensor data).
export async function infer(image, names) {
  const head = new TextEncoder().encode(JSON.stringify({
    inputs: [{ name: "image", datatype: "BYTES", shape: [1], parameters: { binary_data_size: image.size + 4 } }],
    outputs: names.map((name) => ({ name })),
    parameters: { top_k: 5 },
  }));
  const size = new DataView(new ArrayBuffer(4));
  size.setUint32(0, image.size, true);
  const found = await asked("/v2/models/edgecl/infer", {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.length) },
    body: new Blob([head, size.buffer, image]),
  });
  const out = Object.fromEntries(found.outputs.map((each) => [each.name, each.data]));
  return {
    version: found.model_version,
    top: out.label.map((label, i) => ({ label, score: out.score[i] })),
    local: out.source?.[0] === "local",
    known: out.known?.[0] ?? null,
    p: out.basis?.[0] ? out.p[0] : null, // without a basis there is none
    set: out.set?.filter(Boolean) ?? null,
    basis: out.basis?.[0] ?? "",
  };
}

const base64 = (file) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(file);
});

export async function enrol(name, files) {
  const images = await Promise.all(files.map(base64));
  return asked(OWN, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name, images }),
  });
}

// The server's events, until it ends. EventSource cannot send a token.
export async function* events() {
  const reply = await call("/edgecl/v1/events");
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    text += part.value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}
