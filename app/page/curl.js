// The requests behind what is on screen, as curl commands.

import { key, query } from "./api.js";

const quote = (text) => (/^[\w@=./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

export function command({ path, parameters }, images, output = "") {
  const url = new URL(path + query(parameters), document.baseURI).href;
  const words = ["curl"];
  if (key.get()) words.push('-H "Authorization: Bearer $VITRINE_KEY"');
  for (const image of images) words.push("-F", quote(`image=@${image.path}`));
  words.push(quote(url));
  if (output) words.push("-o", output);
  return words.join(" ");
}

export function list(element, commands) {
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
    button.textContent = (await copy(code)) ? "Copied" : "Copy failed";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return row;
}

// The Clipboard API exists only on https and localhost; elsewhere the command is selected and copied.
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}
