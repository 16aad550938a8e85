// What the view shows, and the same as the fragment of a link: names and values, without what is the default.

export const DEFAULTS = {
  tab: "look", // or "teach"
  view: "attention", // or "features"
  size: null, // patches a side of the answers; null is the model's own
  resize: "",
  layer: null, // null is the model's most telling one
  head: "mean",
  method: "raw",
  side: null, // patches a side of the features; null is the page's choice
  mask: "",
  patch: null, // {image, row, column}: the chosen patch of one of the shown images
  heat: true,
  smooth: true,
  grid: false,
  opacity: 85,
};

export const settings = { ...DEFAULTS };

const ALLOWED = {
  tab: ["look", "teach"],
  view: ["attention", "features"],
  resize: ["", "crop", "squash", "fit"],
  method: ["raw", "rollout"],
  mask: ["", "positive", "negative"],
};

export function toFragment(examples) {
  const changed = Object.entries(settings).filter(([name, value]) => value !== null && value !== DEFAULTS[name]);
  const words = changed.map(([name, value]) => [name, written(value)]);
  if (examples.length) words.push(["examples", examples.join(",")]);
  return words.length ? `#${new URLSearchParams(words).toString().replaceAll("%2C", ",")}` : "";
}

const written = (value) => (typeof value === "object" ? [value.image, value.row, value.column].join(",") : value === true ? "on" : value === false ? "off" : String(value));

// Return the settings of a fragment, the examples that it names, and a sentence for what this model does not have.
export function fromFragment(fragment, ranges) {
  const [found, faults] = [{}, []];
  const words = new URLSearchParams(fragment.replace(/^#/, ""));
  const examples = (words.get("examples") ?? "").split(",").filter(Boolean);
  words.delete("examples");
  for (const [name, text] of words) {
    const value = name in DEFAULTS ? read(name, text, ranges) : undefined;
    if (value === undefined) faults.push(`${name}=${text}${ranges[name] ? ` (here it is ${ranges[name].join(" to ")})` : ""}`);
    else found[name] = value;
  }
  return { found, examples, faults };
}

function read(name, text, ranges) {
  if (ALLOWED[name]) return ALLOWED[name].includes(text) ? text : undefined;
  if (typeof DEFAULTS[name] === "boolean") return { on: true, off: false }[text];
  if (name === "patch") {
    const [image, row, column] = text.split(",").map(Number);
    return /^[01],\d+,\d+$/.test(text) ? { image, row, column } : undefined;
  }
  if (name === "head" && text === "mean") return text;
  const [min, max] = ranges[name];
  if (!/^\d+$/.test(text) || Number(text) < min || Number(text) > max) return undefined;
  return name === "head" ? text : Number(text);
}
