// Show the Server-Timing of the last requests, as bars to the same scale.

const STEPS = ["receive", "decode", "queue", "forward"];

export function listTimings(element, requests) {
  const longest = Math.max(1, ...requests.map(([, timings]) => timings.total ?? 0));
  element.replaceChildren(...requests.map(([title, timings]) => row(title, timings, longest)), legend());
}

function row(title, timings, longest) {
  const item = document.createElement("li");
  item.innerHTML = '<span class="name"></span><span class="track"></span><span class="ms"></span>';
  const [name, track, total] = item.children;
  name.textContent = title;
  total.textContent = `${(timings.total ?? 0).toFixed(timings.total < 10 ? 1 : 0)} ms`;
  const measured = STEPS.filter((step) => timings[step]);
  const rest = Math.max(0, (timings.total ?? 0) - measured.reduce((sum, step) => sum + timings[step], 0));
  for (const [step, ms] of [...measured.map((step) => [step, timings[step]]), ["rest", rest]]) {
    const part = track.appendChild(document.createElement("i"));
    part.className = step;
    part.style.width = `${(100 * ms) / longest}%`;
    part.title = `${step}: ${ms.toFixed(1)} ms`;
  }
  return item;
}

function legend() {
  const item = document.createElement("li");
  item.className = "legend";
  for (const step of [...STEPS, "rest"]) {
    const entry = item.appendChild(document.createElement("span"));
    entry.className = step;
    entry.textContent = step;
  }
  return item;
}
