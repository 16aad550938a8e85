// The requests that made what is on screen, as commands.

import { key, query } from "./api.js";

const quote = (text) => (/^[\w@=./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

export function command({ path, parameters }, pictures, output = "") {
  const url = new URL(path + query(parameters), document.baseURI).href;
  const words = ["curl"];
  if (key.get()) words.push('-H "Authorization: Bearer $VITRINE_KEY"');
  for (const picture of pictures) words.push("-F", quote(`image=@${picture.path}`));
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
    button.textContent = (await copy(code)) ? "Copied" : "Select it";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return row;
}

// The clipboard's own interface is only there on https and localhost.
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}
