// Shows the front, its budget and its table from the JSON on the page, and makes tables sortable.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const keyOf = (row) => (isNaN(row.dataset.exit) ? row.dataset.exit : Number(row.dataset.exit));  // such as 1-int8
  const byExit = new Map(report.front.candidates.map((each) => [each.exit, each]));
  const { darkMode, literal, inPercent, paddedDomain } = charts;
  const inPowers = (value) => (value ? d3.format("~s")(value).replace("K", "k") : "0");

  // The front: one cost at a time, and a budget on it
  const holder = document.querySelector("#front");
  const [slider, told] = [document.querySelector("#budget"), document.querySelector("#budget-choice")];
  const state = { cost: 0, step: null, picked: null }; // step: null while it is the choice that was made
  const cost = () => report.front.costs[state.cost];

  function choice() {
    if (state.step !== null) return cost().steps[state.step];
    const { limit, limit_text: text, steps } = cost();
    const chosen = report.front.chosen;
    return chosen === null ? steps.at(-1) : { limit, text: text ?? "As selected", exit: chosen, percent: null };
  }

  function colorOf(point, chosen) {
    if (point.exit === chosen) return "var(--chosen)";
    return point.on_front ? "var(--front)" : "var(--beaten)";
  }

  // Place names where they cover neither another name nor a point; those that matter most come first
  function placeNames(points, chosen, toX, toY, frame) {
    const importance = (point) => [point.exit === chosen, point.is_main, point.on_front].findIndex(Boolean) >>> 0;
    const places = [["end", -8, -10], ["start", 8, 12], ["middle", 0, -15], ["start", 10, -9], ["end", -9, 13]];
    const taken = points.map((point) => [toX(point.cost) - 7, toY(point.score) - 7, 14, 14]);
    const names = [];
    const overlap = (a, b) => a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3];
    for (const point of d3.sort(points, importance, (each) => -each.score)) {
      if (points.length > 13 && importance(point) > 2) continue;
      const width = 6.9 * point.name.length, left = { end: width, middle: width / 2, start: 0 };
      for (const [anchor, dx, dy] of places) {
        const box = [toX(point.cost) + dx - left[anchor], toY(point.score) + dy - 7, width, 14];
        const inside = box[0] > frame[0] && box[0] + width < frame[1] && box[1] > 0;
        if (!inside || taken.some((other) => overlap(box, other))) continue;
        taken.push(box);
        const bold = point.exit === chosen;
        names.push(Plot.text([point], { x: "cost", y: "score", text: "name", textAnchor: anchor, dx, dy,
          fill: bold ? "var(--chosen)" : "currentColor", fontWeight: bold ? "bold" : "normal",
          stroke: "var(--page)", strokeWidth: 4 }));
        break;
      }
    }
    return names;
  }

  function drawFront() {
    const { exit: chosen, limit } = choice();
    const points = cost().points.map((point) => ({ ...byExit.get(point.exit), ...point }))
      .filter((point) => point.score !== null);
    const combined = report.front.combined.filter((point) => cost().name in point.costs)
      .map((point) => ({ ...point, cost: point.costs[cost().name], on_front: true, low: null, high: null }));
    const shown = [...points, ...combined];
    const barred = points.filter((point) => points.length <= 13 || point.on_front || point.exit === chosen);
    const width = Math.max(280, holder.clientWidth), height = width < 560 ? 300 : 400;
    const margins = { marginLeft: 52, marginRight: 14, marginTop: 26, marginBottom: 42 };
    const greatest = d3.max(shown, (point) => Math.max(point.cost, point.cost_high ?? 0)) || 1;
    const x = [0, 1.08 * Math.max(greatest, limit !== null && limit <= 2 * greatest ? limit : 0)];
    const y = paddedDomain(shown.flatMap((point) => [point.score, point.low, point.high]), 0.01);
    const [toX, toY] = [d3.scaleLinear(x, [margins.marginLeft, width - margins.marginRight]),
      d3.scaleLinear(y, [height - margins.marginBottom, margins.marginTop])];
    const color = literal((point) => colorOf(point, chosen));
    const shaded = limit !== null && limit < x[1];
    const better = report.front.lower_is_better ? "↓ better" : "↑ better";
    const plot = Plot.plot({
      width, height, ...margins, style: { fontSize: "12px", overflow: "visible" },
      x: { domain: x, label: cost().label, labelAnchor: "center", labelArrow: "none", ticks: width / 90,
        tickFormat: cost().name === "latency_ms" ? (value) => `${+value.toPrecision(6)}` : inPowers },
      y: { domain: y, label: `validation ${report.front.metric} (${better})`, labelArrow: "none", grid: true, tickSize: 0,
        ticks: 6, tickFormat: inPercent(report.front.is_percent) },
      marks: [
        shaded ? Plot.rect([limit], { x1: limit, x2: x[1], y1: y[0], y2: y[1], fill: "currentColor", fillOpacity: 0.07 })
          : null,
        shaded ? Plot.ruleX([limit], { strokeDasharray: "5 4", strokeWidth: 1.3 }) : null,
        Plot.line(points.filter((point) => point.on_front), { x: "cost", y: "score", curve: "step-after",
          stroke: "var(--front)", strokeWidth: 1.8 }),
        Plot.ruleX(barred.filter((point) => point.low !== null && point.high !== null),
          { x: "cost", y1: "low", y2: "high", stroke: color, strokeOpacity: 0.55, strokeWidth: 1.5 }),
        Plot.ruleY(barred.filter((point) => point.cost_low !== null && point.cost_high !== null),
          { y: "score", x1: "cost_low", x2: "cost_high", stroke: color, strokeOpacity: 0.55, strokeWidth: 1.5 }),
        Plot.dot(points.filter((point) => point.exit === state.picked),
          { x: "cost", y: "score", r: 12, stroke: "currentColor", strokeWidth: 1.5 }),
        Plot.dot(points, { x: "cost", y: "score", r: (point) => (point.exit === chosen ? 8 : 5.5), fill: color,
          stroke: "var(--page)", symbol: (point) => (point.exit === chosen ? "diamond" : "circle") }),
        Plot.dot(combined, { x: "cost", y: "score", r: 6, fill: "var(--page)", stroke: "var(--front)", strokeWidth: 2,
          symbol: "triangle", ariaDescription: "several exits" }),
        ...placeNames(shown, chosen, toX, toY, [margins.marginLeft, width - margins.marginRight]),
        Plot.tip(shown, Plot.pointer({ x: "cost", y: "score", maxRadius: 60, lineWidth: 26, fontSize: 12.5, lineHeight: 1.25,
          title: (point) => [point.name, ...point.lines].join("\n") })),
      ],
      r: { type: "identity" },
    });
    plot.addEventListener("click", () => plot.value?.exit !== undefined && pick(plot.value.exit));
    holder.replaceChildren(plot);
    document.querySelector("#front-missing").textContent = cost().missing;
  }

  function tell() {
    const { exit, text, percent } = choice();
    const found = exit === null ? null : byExit.get(exit);
    const part = (tag, textContent) => Object.assign(document.createElement(tag), { textContent });
    told.replaceChildren(part("span", `${text} → `), part("strong", found ? found.name : "nothing fits"),
      part("small", found ? found.lines.join(" · ") : ""));
    slider.setAttribute("aria-valuetext", `${text}: ${found ? found.name : "nothing fits"}`);
    const command = cost().option && percent && found ? `${report.front.command} ${cost().option} ${percent}%` : "";
    document.querySelector("#budget-command").textContent = command;
    for (const row of document.querySelectorAll("#candidates tr[data-exit]")) {
      row.classList.toggle("chosen", found !== null && keyOf(row) === exit);
      row.classList.toggle("picked", keyOf(row) === state.picked);
    }
  }

  function update() {
    tell();
    drawFront();
  }

  function pick(exit) {
    state.picked = state.picked === exit ? null : exit;
    update();
    document.querySelector("#candidates tr.picked")?.scrollIntoView({ block: "nearest" });
  }

  function takeCost(index) {
    Object.assign(state, { cost: index, step: null });
    const { limit, steps } = cost();
    const last = steps.length - 1;
    slider.max = last;
    slider.value = limit === null ? last : Math.max(0, steps.findLastIndex((step) => step.limit && step.limit <= limit));
    update();
  }

  document.querySelectorAll("input[name=cost]").forEach((input, index) =>
    input.addEventListener("change", () => takeCost(index)));
  slider.addEventListener("input", () => {
    state.step = slider.valueAsNumber;
    update();
  });
  document.querySelectorAll("#candidates tr[data-exit]").forEach((row) =>
    row.addEventListener("click", () => pick(keyOf(row))));

  // Tables: a button in each heading sorts by its column, first the way round that is asked for most
  function makeSortable(table) {
    const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    headings.forEach((heading, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: heading.textContent });
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        const value = (row) => row.cells[column].dataset.value;
        const [known, unknown] = d3.groups(body.rows, (row) => value(row) !== undefined)
          .reduce((both, [is, rows]) => (is ? [rows, both[1]] : [both[0], rows]), [[], []]);
        const numeric = known.every((row) => value(row) !== "" && isFinite(value(row)));
        const order = numeric ? (a, b) => value(a) - value(b)
          : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
        known.sort((a, b) => (up ? order(a, b) : order(b, a)));
        headings.forEach((each) => each.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        body.append(...known, ...unknown);
      });
    });
  }

  function drawRest() {
    document.querySelectorAll("[data-curves]").forEach((element) => {
      charts.drawCurves(element, report.curves[Number(element.dataset.curves)]);
    });
    if (report.reliability) charts.drawReliability(document.querySelector("#reliability"), report.reliability);
    if (report.predictions) charts.drawPredictions(document.querySelector("#predictions"), report.predictions);
  }

  function redraw() {
    drawFront();
    drawRest();
  }

  document.body.classList.add("scripted");
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  takeCost(0);
  drawRest();
  let width = innerWidth, pending = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(redraw);
  });
  darkMode.addEventListener("change", redraw);
})();
