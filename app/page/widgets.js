// Sliders, checkboxes and radio groups. All are native inputs, so that keyboards and screen readers work.

const byId = (id) => document.getElementById(id);

export function slider(id, { min, max, value, text }, onChange) {
  const input = byId(id);
  const output = byId(`${id}-value`);
  Object.assign(input, { min, max, value });
  const showValue = () => {
    output.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.oninput = () => {
    showValue();
    onChange(Number(input.value));
  };
  showValue();
}

slider.range = (id) => [Number(byId(id).min), Number(byId(id).max)];

export function checkbox(id, onChange) {
  byId(id).addEventListener("change", (event) => onChange(event.target.checked));
}

export function radioGroup(id, options, onChange) {
  byId(id).replaceChildren(
    ...options.map(([value, text], i) => {
      const label = document.createElement("label");
      const input = label.appendChild(document.createElement("input"));
      Object.assign(input, { type: "radio", name: id, value, checked: i === 0 });
      label.append(text);
      input.addEventListener("change", () => onChange(value));
      return label;
    }),
  );
}
