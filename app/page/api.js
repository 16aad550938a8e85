// Send requests to the service: path, parameters and images in; JSON and timings out, or a Problem.

const KEY = "vitrine-key";

// Problems of one file; the others of a request are answered.
const OF_AN_IMAGE = new Set([
  "empty_image", "not_an_image", "format_not_allowed", "undecodable", "too_many_pixels", "crop_too_large", "too_complex",
  "body_too_large", "model_output_invalid",
]);

export class Problem extends Error {
  constructor({ status = 0, code, title, detail, request_id, errors }, retryAfter = 0) {
    super(detail);
    Object.assign(this, { status, code, title, detail, requestId: request_id, errors, retryAfter });
  }

  get isOfImage() {
    return OF_AN_IMAGE.has(this.code);
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

export async function request(path, parameters = {}, images = [], signal = undefined) {
  return ask(images.length ? "POST" : "GET", path, parameters, images.map((image) => ["image", image]), {}, signal);
}

// fields: [name, image] of a form; conditions: further headers, such as If-Match.
export async function ask(method, path, parameters, fields, conditions = {}, signal = undefined) {
  const options = { method, headers: { Accept: "application/json", ...conditions }, signal };
  if (key.get()) options.headers.Authorization = `Bearer ${key.get()}`;
  if (fields.length) {
    options.body = new FormData();
    for (const [name, image] of fields) options.body.append(name, image.file, image.name);
  }
  const response = await send(path + query(parameters), options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw problemOf(response, body);
  return { body, timings: parseTimings(response.headers.get("Server-Timing") ?? "") };
}

async function send(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const detail = "It may have stopped, or the network is down";
    throw new Problem({ code: "unreachable", title: "The service cannot be reached", detail }, 3);
  }
}

function problemOf(response, body) {
  const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
  const known = body.code ? body : { code: `http_${response.status}`, title: response.statusText, detail: "The response did not come from the service itself" };
  return new Problem({ ...known, status: response.status }, retryAfter);
}

// "decode;dur=3.1, forward;dur=20.0" -> {decode: 3.1, forward: 20}
function parseTimings(header) {
  const spans = header.split(",").map((span) => span.trim().match(/^(\w+);dur=([\d.]+)$/));
  return Object.fromEntries(spans.filter(Boolean).map(([, name, ms]) => [name, Number(ms)]));
}
