// The attention heads as small pictures to choose from, as radio buttons.

import { heatMap } from "./draw.js";
import { headOf } from "./image-view.js";

const SIDE = 44;

export class Heads {
  constructor(element, count, choose) {
    this.choices = ["mean", ...Array.from({ length: count }, (_, head) => String(head))];
    this.canvases = this.choices.map(() => Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE }));
    element.replaceChildren(
      ...this.choices.map((head, i) => {
        const label = document.createElement("label");
        const input = label.appendChild(document.createElement("input"));
        Object.assign(input, { type: "radio", name: "head", value: head });
        label.append(this.canvases[i], head);
        input.addEventListener("change", () => choose(head));
        return label;
      }),
    );
    this.element = element;
  }

  select(head) {
    this.element.querySelector(`[value="${head}"]`).checked = true;
  }

  // A rollout has no heads: it takes their mean in each layer.
  paint(attention, isRollout) {
    this.element.toggleAttribute("inert", isRollout);
    this.canvases.forEach((canvas, i) => {
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, SIDE, SIDE);
      if (attention && !isRollout && Array.isArray(attention[0][0])) context.drawImage(heatMap(headOf(attention, this.choices[i]), true), 0, 0, SIDE, SIDE);
    });
  }
}
