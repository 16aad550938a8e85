// Receive images in every way: drop (files and folders), paste, file dialog, camera, examples.

const SUFFIXES = /\.(jpe?g|jpe|jfif|png|webp|gif|bmp|dib|avif|hei[cf]|tiff?)$/i;

// receive(images, passedOver, place): what was chosen, how many other files its folders have, and the element on which
// it was dropped, or that had the focus when it was pasted.
export function onImages(receive) {
  for (const id of ["pick", "photograph", "pick-folder"]) {
    const input = document.getElementById(id);
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = ""; // so that the same file can be chosen again
      const path = (file) => file.webkitRelativePath;
      if (id === "pick-folder") deliver(receive, files.sort((a, b) => (path(a) < path(b) ? -1 : 1)).map((file) => [file, path(file), true]));
      else deliver(receive, files.map((file) => [file, file.name, false]));
    });
  }
  document.getElementById("examples").addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (button) receive([await fromExample(button)], 0);
  });
  document.addEventListener("paste", (event) => {
    deliver(receive, [...(event.clipboardData?.files ?? [])].map((file) => [file, file.name, false]), document.activeElement);
  });
  onDrop(receive);
}

// Each file is [file, path, whether it is of a folder]. Of a folder, what is not named like an image is left out.
function deliver(receive, files, place = null) {
  const taken = files.filter(([, path, inFolder]) => !inFolder || (SUFFIXES.test(path) && !/(^|\/)\./.test(path)));
  const images = taken.map(([file, path]) => imageOf(file, path));
  if (files.length) receive(images, files.length - taken.length, place);
}

export const imageOf = (file, path) => ({ file, name: file.name || "pasted.png", path: path || "pasted.png", title: path || "pasted.png" });

export async function fromExample(button) {
  const { path } = button.dataset;
  const response = await fetch(`static/${path}`);
  return { file: await response.blob(), name: path.split("/").at(-1), path, title: button.title, example: button.title };
}

export async function examplesNamed(names) {
  const buttons = [...document.querySelectorAll("#examples button")];
  const wanted = names.map((name) => buttons.find((button) => button.title === name)).filter(Boolean);
  return Promise.all(wanted.map(fromExample));
}

function onDrop(receive) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const showDropTarget = (visible) => document.body.classList.toggle("dropping", visible);
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    showDropTarget(true);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) showDropTarget(false);
  });
  addEventListener("drop", async (event) => {
    showDropTarget(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    // Entries have to be taken before the first wait: the list is empty after the event.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
    const [files, place] = [[...event.dataTransfer.files], event.target];
    if (!entries.some((entry) => entry?.isDirectory)) deliver(receive, files.map((file) => [file, file.name, false]), place);
    else deliver(receive, (await Promise.all(entries.filter(Boolean).map((entry) => filesOf(entry, false)))).flat(), place);
  });
}

async function filesOf(entry, inFolder) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    return file ? [[file, entry.fullPath.replace(/^\//, ""), inFolder]] : [];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
    if (!batch.length) break; // a reader gives a hundred at a time
    found.push(...batch);
  }
  found.sort((a, b) => (a.name < b.name ? -1 : 1));
  return (await Promise.all(found.map((each) => filesOf(each, true)))).flat();
}
