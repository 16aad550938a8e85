// Every way in which pictures come: drop, paste, choose, photograph, take an example.

export function intake(take) {
  for (const id of ["pick", "photograph"]) {
    const input = document.getElementById(id);
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = ""; // so that the same file can be chosen again
      if (files.length) take(files.map(own));
    });
  }
  document.getElementById("examples").addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (button) take([await example(button)]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files.map(own));
  });
  dropping(take);
}

function own(file) {
  const name = file.name || "pasted.png";
  return { file, name, path: name, title: name };
}

async function example(button) {
  const { path } = button.dataset;
  const response = await fetch(`static/${path}`);
  return { file: await response.blob(), name: path.split("/").at(-1), path, title: button.title };
}

function dropping(take) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const over = (value) => document.body.classList.toggle("dropping", value);
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over(true);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) over(false);
  });
  addEventListener("drop", (event) => {
    over(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files].map(own));
  });
}
