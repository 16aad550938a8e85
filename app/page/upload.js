// Receive images in every way: drop, paste, file dialog, camera, examples.

export function onImages(receive) {
  for (const id of ["pick", "photograph"]) {
    const input = document.getElementById(id);
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = ""; // so that the same file can be chosen again
      if (files.length) receive(files.map(fromFile));
    });
  }
  document.getElementById("examples").addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (button) receive([await fromExample(button)]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) receive(files.map(fromFile));
  });
  onDrop(receive);
}

function fromFile(file) {
  const name = file.name || "pasted.png";
  return { file, name, path: name, title: name };
}

async function fromExample(button) {
  const { path } = button.dataset;
  const response = await fetch(`static/${path}`);
  return { file: await response.blob(), name: path.split("/").at(-1), path, title: button.title };
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
  addEventListener("drop", (event) => {
    showDropTarget(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    receive([...event.dataTransfer.files].map(fromFile));
  });
}
