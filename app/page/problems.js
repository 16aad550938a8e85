// What went wrong, said clearly: the service's own sentence, under a title that says what it means here.

const TITLES = {
  unauthorized: "This service wants a key",
  loading: "The model is still being loaded",
  draining: "The service is shutting down",
  overloaded: "The service is busy",
  timeout: "That took too long",
  out_of_memory: "There was not enough memory for that",
  too_slow: "The upload took too long",
  not_an_image: "That is no picture",
  empty_image: "That file is empty",
  format_not_allowed: "That kind of picture is not allowed here",
  undecodable: "That picture is damaged",
  too_complex: "That picture is too complex",
  too_many_pixels: "That picture is too large",
  body_too_large: "That file is too large",
  too_many_images: "Too many pictures at once",
  too_many_tokens: "That resolution is too high",
  invalid_parameter: "The model cannot do that",
  no_classifier: "This model has no classes",
  no_cls_token: "This model has no [CLS] token",
  model_output_invalid: "The model gave no sensible answer",
  internal: "Something broke on the service's side",
};

const part = (id) => document.getElementById(id);

export function complain(problem) {
  part("problem-title").textContent = TITLES[problem.code] ?? problem.title ?? "Something went wrong";
  part("problem-detail").textContent = sentence(problem);
  const request = problem.requestId ? ` · request ${problem.requestId}` : "";
  part("problem-code").textContent = `${problem.status || ""} ${problem.code}${request}`.trim();
  part("key-form").hidden = problem.code !== "unauthorized";
  part("problem").hidden = false;
  if (problem.code === "unauthorized") part("key").focus();
}

export function settle() {
  part("problem").hidden = true;
}

function sentence({ code, detail = "", retryAfter }) {
  if (code === "unauthorized") return "Type it here; it stays in this tab and goes to this service alone.";
  const capital = detail.charAt(0).toUpperCase() + detail.slice(1);
  return retryAfter ? `${capital}. Trying again in ${retryAfter} s.` : `${capital}${/[.!?]$/.test(capital) ? "" : "."}`;
}

part("problem-close").addEventListener("click", settle);
