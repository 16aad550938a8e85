// Sliders, checkboxes, radio groups and tabs. All but the tabs are native inputs, so that keyboards and screen readers work.

const byId = (id) => document.getElementById(id);

export function slider(id, { range: [min, max], value, text }, onChange) {
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

export function checkbox(id, value, onChange) {
  byId(id).checked = value;
  byId(id).onchange = (event) => onChange(event.target.checked);
}

// options: [value, text, sentence]; the sentence of the chosen one stands in the element `${id}-note`.
export function radioGroup(id, options, chosen, onChange) {
  const explain = (value) => (byId(`${id}-note`).textContent = options.find(([name]) => name === value)[2]);
  byId(id).replaceChildren(
    ...options.map(([value, text]) => {
      const label = document.createElement("label");
      const input = label.appendChild(document.createElement("input"));
      Object.assign(input, { type: "radio", name: id, value, checked: value === chosen });
      label.append(text);
      input.addEventListener("change", () => {
        explain(value);
        onChange(value);
      });
      return label;
    }),
  );
  explain(chosen);
}

// The tab of the value has the id `tab-${value}`, its panel `panel-${value}` (WAI-ARIA Authoring Practices, tabs).
export function tabs(values, chosen, onChange) {
  const select = (value) => {
    for (const each of values) {
      const [tab, isChosen] = [byId(`tab-${each}`), each === value];
      tab.setAttribute("aria-selected", isChosen);
      tab.tabIndex = isChosen ? 0 : -1;
      byId(`panel-${each}`).hidden = !isChosen;
    }
  };
  values.forEach((value, i) => {
    const tab = byId(`tab-${value}`);
    tab.onclick = () => {
      select(value);
      onChange(value);
    };
    tab.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = byId(`tab-${values[(i + step + values.length) % values.length]}`);
      next.focus();
      next.click();
    };
  });
  select(chosen);
}
