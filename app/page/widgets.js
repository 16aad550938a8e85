// Sliders, switches and rows of choices, all of them native inputs: keyboard and screen readers come with them.

const part = (id) => document.getElementById(id);

export function slider(id, { least, most, value, text }, changed) {
  const input = part(id);
  const output = part(`${id}-value`);
  Object.assign(input, { min: least, max: most, value });
  const say = () => {
    output.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.oninput = () => {
    say();
    changed(Number(input.value));
  };
  say();
}

slider.range = (id) => [Number(part(id).min), Number(part(id).max)];

export function toggle(id, changed) {
  part(id).addEventListener("change", (event) => changed(event.target.checked));
}

export function choices(id, options, changed) {
  part(id).replaceChildren(
    ...options.map(([value, text], i) => {
      const label = document.createElement("label");
      const input = label.appendChild(document.createElement("input"));
      Object.assign(input, { type: "radio", name: id, value, checked: i === 0 });
      label.append(text);
      input.addEventListener("change", () => changed(value));
      return label;
    }),
  );
}
