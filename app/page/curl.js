// The requests behind what is on screen, as curl commands.

import { key, query } from "./api.js";

const quote = (text) => (/^[\w@=./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// curl takes ; , and quotes in the name of a file for words of its own.
const at = (path) => `@${/[;,"\\]/.test(path) ? `"${path.replace(/["\\]/g, "\\$&")}"` : path}`;

export function command({ path, parameters }, images, output = "") {
  return formCommand({ path, parameters }, images.map((image) => ["image", image]), output);
}

// fields: [name, image]. The method is curl's own, GET or POST, unless it is named.
export function formCommand({ path, parameters = {}, method = "" }, fields, output = "") {
  const url = new URL(path + query(parameters), document.baseURI).href;
  const words = ["curl"];
  if (method) words.push("-X", method);
  if (key.get()) words.push('-H "Authorization: Bearer $VITRINE_KEY"');
  for (const [name, image] of fields) words.push("-F", quote(`${name}=${at(image.path)}`));
  words.push(quote(url));
  if (output) words.push("-o", output);
  return words.join(" ");
}

export function listCommands(element, commands) {
  element.replaceChildren(...commands.map(([title, text]) => item(title, text)));
}

function item(title, text) {
  const row = document.createElement("li");
  row.innerHTML = '<span></span><code tabindex="0"></code><button type="button" class="quiet">Copy</button>';
  const [name, code, button] = row.children;
  name.textContent = title;
  code.textContent = text;
  button.setAttribute("aria-label", `Copy the command for ${title}`);
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text)) ? "Copied" : "Copy failed";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return row;
}

// The Clipboard API exists only on https and localhost; elsewhere the text is selected in a field and copied.
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.body.appendChild(document.createElement("textarea"));
    field.value = text;
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}
