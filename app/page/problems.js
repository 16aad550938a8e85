// Show an error: a title for its code, and the service's own sentence.

const TITLES = {
  unauthorized: "This service requires an API key",
  loading: "The model is still loading",
  draining: "The service is shutting down",
  overloaded: "The service is busy",
  timeout: "The request took too long",
  out_of_memory: "Not enough memory for this request",
  too_slow: "The upload took too long",
  not_an_image: "This file is not an image",
  empty_image: "This file is empty",
  format_not_allowed: "This image format is not accepted",
  undecodable: "This image is damaged",
  too_complex: "This image is too complex",
  too_many_pixels: "This image is too large",
  crop_too_large: "This image is too long and thin",
  body_too_large: "This file is too large",
  too_many_images: "Too many images at once",
  too_many_tokens: "This resolution is too high",
  invalid_parameter: "The model does not support this",
  no_classifier: "This model has no classifier",
  no_cls_token: "This model has no [CLS] token",
  model_output_invalid: "The model gave an invalid answer",
  internal: "The service failed",
  forbidden: "This needs an admin's key",
  heads_off: "Teaching is off on this service",
  head_not_found: "There is no head of this name",
  head_stale: "This head belongs to another model",
  head_broken: "The file of this head is damaged",
  head_changed: "Somebody else changed this head",
  head_not_saved: "The head could not be saved",
  too_many_heads: "There are too many heads",
  too_many_classes: "There are too many classes",
  too_many_examples: "There are too many examples",
  heads_too_large: "The heads need too much memory",
  too_few_examples: "There are too few pictures",
};

const WANT_A_KEY = ["unauthorized", "forbidden"];

const byId = (id) => document.getElementById(id);

export const titleOf = (problem) => TITLES[problem.code] ?? problem.title ?? "Something went wrong";

export function showProblem(problem) {
  byId("problem-title").textContent = titleOf(problem);
  byId("problem-detail").textContent = detailOf(problem);
  const request = problem.requestId ? ` · request ${problem.requestId}` : "";
  byId("problem-code").textContent = `${problem.status || ""} ${problem.code}${request}`.trim();
  const wantsKey = WANT_A_KEY.includes(problem.code);
  byId("key-form").hidden = !wantsKey;
  byId("problem").hidden = false;
  if (wantsKey) byId("key").focus();
}

export function hideProblem() {
  byId("problem").hidden = true;
}

// An answer ends the problem of an earlier request, but not that of a link: it stays until it is closed.
export function hideAnswered() {
  if (!byId("problem-code").textContent.includes("invalid_link")) hideProblem();
}

function detailOf(problem) {
  if (WANT_A_KEY.includes(problem.code)) return "Enter it here. It stays in this tab and is sent only to this service.";
  return problem.retryAfter ? `${sentenceOf(problem)} Trying again in ${problem.retryAfter} s.` : sentenceOf(problem);
}

export function sentenceOf({ detail = "" }) {
  const capital = detail.charAt(0).toUpperCase() + detail.slice(1);
  return `${capital}${/[.!?]$/.test(capital) ? "" : "."}`;
}

byId("problem-close").addEventListener("click", hideProblem);
