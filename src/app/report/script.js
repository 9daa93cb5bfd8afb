// Shows the values under the pointer. The values are read from the drawings; without this script nothing else is missing.
for (const plot of document.querySelectorAll(".plot")) {
  const [x0, x1, y0, y1] = plot.dataset.range.split(" ").map(Number);
  const svg = plot.querySelector("svg"), size = svg.viewBox.baseVal;
  const curves = [...svg.querySelectorAll("polyline")].map((line) => ({
    name: line.dataset.name,
    faint: line.classList.contains("faint"),
    points: Array.from(line.points, (p) => [x0 + p.x / size.width * (x1 - x0), y1 - p.y / size.height * (y1 - y0)]),
  })).filter((curve) => curve.points.length);
  const smoothed = curves.some((curve) => curve.faint), named = new Set(curves.map((curve) => curve.name)).size > 1;
  const show = (value) => "percent" in plot.dataset ? (100 * value).toFixed(1) + " %"
    : value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(2) : String(+value.toPrecision(4));
  const add = (tag, name) => Object.assign(plot.appendChild(document.createElement(tag)), { className: name, hidden: true });
  const cursor = add("div", "cursor"), tip = add("div", "tip");
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = x0 + (event.clientX - box.left) / box.width * (x1 - x0);
    const near = curves.map((curve) => curve.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    if (!near.length) return;
    const step = near.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)[0];
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: "step " + Math.round(step) }));
    curves.forEach((curve, i) => {
      if (Math.abs(near[i][0] - step) > 0.5) return;
      const name = [named ? curve.name : "", smoothed ? (curve.faint ? "step" : "smoothed") : ""].join(" ").trim();
      tip.append(document.createElement("br"), (name ? name + "  " : "") + show(near[i][1]));
    });
    const left = (step - x0) / (x1 - x0) * box.width;
    cursor.hidden = tip.hidden = false;
    cursor.style.left = left + "px";
    tip.style.left = Math.max(0, Math.min(left > box.width / 2 ? left - tip.offsetWidth - 10 : left + 10, box.width - tip.offsetWidth)) + "px";
  });
  plot.addEventListener("pointerleave", () => { cursor.hidden = tip.hidden = true; });
}
