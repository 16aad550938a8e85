// The service, asked: a path, parameters and pictures -> its JSON and timings, or a Problem.

const KEY = "vitrine-key";

export class Problem extends Error {
  constructor({ status = 0, code, title, detail, request_id }, retryAfter = 0) {
    super(detail);
    Object.assign(this, { status, code, title, detail, requestId: request_id, retryAfter });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export async function ask(path, parameters = {}, pictures = []) {
  const options = { headers: { Accept: "application/json" } };
  if (key.get()) options.headers.Authorization = `Bearer ${key.get()}`;
  if (pictures.length) {
    options.method = "POST";
    options.body = new FormData();
    for (const picture of pictures) options.body.append("image", picture.file, picture.name);
  }
  const response = await reach(path + query(parameters), options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw problem(response, body);
  return { body, timings: timings(response.headers.get("Server-Timing") ?? "") };
}

async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch {
    throw new Problem({
      code: "unreachable",
      title: "The service cannot be reached",
      detail: "It may have been stopped, or the network is down. What is on screen is its last answer.",
    });
  }
}

function problem(response, body) {
  const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
  const known = body.code ? body : { code: `http_${response.status}`, title: response.statusText, detail: "The answer was not the service's own." };
  return new Problem({ ...known, status: response.status }, retryAfter);
}

// "decode;dur=3.1, forward;dur=20.0" -> {decode: 3.1, forward: 20}
function timings(header) {
  const spans = header.split(",").map((span) => span.trim().match(/^(\w+);dur=([\d.]+)$/));
  return Object.fromEntries(spans.filter(Boolean).map(([, name, ms]) => [name, Number(ms)]));
}
