"use strict";

// How the run that is served was evaluated: verdicts, a bar per system, a curve per training.

const SVG = "http://www.w3.org/2000/svg";
const MEASURE = "ndcg_at_10";

function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(width, height, title) {
  const made = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "plot" });
  made.append(shape("title", {}, title));
  return made;
}

function splitsOf(report) {
  return ["dev", "test"].filter((split) => report.systems.some((each) => each[split]));
}

function bars(report, split) {
  const rows = report.systems.filter((each) => each[split]);
  const svg = picture(640, 8 + 28 * rows.length, `nDCG@10 on ${split}`);
  rows.forEach((each, place) => {
    const value = each[split][MEASURE];
    const y = 4 + 28 * place;
    svg.append(shape("text", { x: 215, y: y + 16, "text-anchor": "end" }, each.system));
    svg.append(shape("rect", { x: 225, y, width: 340 * value, height: 20, class: "bar" }));
    svg.append(shape("text", { x: 231 + 340 * value, y: y + 16 }, value.toFixed(3)));
  });
  return svg;
}

function curve(training) {
  const points = training.dev_curve;
  const values = points.map((point) => point[MEASURE]);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const last = points[points.length - 1].step || 1;
  const x = (step) => 60 + (520 * step) / last;
  const y = (value) => 130 - (high > low ? (110 * (value - low)) / (high - low) : 55);
  const svg = picture(640, 160, `nDCG@10 on a sample of dev while ${training.encoder} was trained`);
  svg.append(shape("polyline", { points: points.map((p) => `${x(p.step)},${y(p[MEASURE])}`).join(" "), class: "curve" }));
  for (const point of points) svg.append(shape("circle", { cx: x(point.step), cy: y(point[MEASURE]), r: 3, class: "bar" }));
  for (const value of new Set([low, high])) {
    svg.append(shape("text", { x: 52, y: y(value) + 5, "text-anchor": "end" }, value.toFixed(3)));
  }
  svg.append(shape("text", { x: 60, y: 155 }, "step 0"));
  svg.append(shape("text", { x: 580, y: 155, "text-anchor": "end" }, `step ${last}`));
  return svg;
}

function table(heads, rows) {
  const made = node("table");
  const head = node("tr");
  heads.forEach((text) => {
    const cell = node("th", text);
    cell.scope = "col";
    head.append(cell);
  });
  made.append(head);
  for (const row of rows) {
    const line = node("tr");
    row.forEach((text) => line.append(node("td", text)));
    made.append(line);
  }
  const scrolled = node("div", undefined, "scroll");
  scrolled.tabIndex = 0;
  scrolled.setAttribute("role", "region");
  scrolled.setAttribute("aria-label", "Table");
  scrolled.append(made);
  return scrolled;
}

const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

function systems(report) {
  const splits = splitsOf(report);
  const heads = ["System", ...splits.flatMap((split) => [`${split} nDCG@10`, `${split} MRR@10`, `${split} recall@100`])];
  const names = [MEASURE, "mrr_at_10", "recall_at_100"];
  const rows = report.systems.map((each) => [
    each.system,
    ...splits.flatMap((split) => names.map((name) => shown(each[split] && each[split][name]))),
  ]);
  return table(heads, rows);
}

function reranked(reranking) {
  const rows = reranking.rows.map((row) => [
    row.first_stage,
    String(row.depth),
    shown(row.dev && row.dev[MEASURE]),
    shown(row.dev_change && row.dev_change.difference),
    shown(row.test && row.test[MEASURE]),
    shown(row.test_change && row.test_change.difference),
  ]);
  return table(["First stage", "Depth", "dev nDCG@10", "change", "test nDCG@10", "change"], rows);
}

function reportOf(report) {
  const made = document.createDocumentFragment();
  made.append(node("p", `${report.passages.toLocaleString("en")} passages. ${report.gate.reason}`));
  for (const split of splitsOf(report)) {
    made.append(node("h3", `nDCG@10 on ${split}`), bars(report, split));
  }
  made.append(systems(report));
  for (const training of report.trainings) {
    if (training.dev_curve.length > 1) made.append(node("h3", `Training of ${training.encoder}: nDCG@10 on a sample of dev`), curve(training));
  }
  if (report.reranking) {
    made.append(node("h3", "Reranking"), node("p", report.reranking.gate.reason), reranked(report.reranking));
  }
  return made;
}

async function showReport() {
  const place = element("report-content");
  if (!element("report").open || place.childElementCount) return;
  const choice = choices[Number(element("left").value)];
  if (!choice) {
    place.textContent = "Search first: the key is missing.";
    return;
  }
  try {
    place.replaceChildren(reportOf(await ask(`/v1/collections/${encodeURIComponent(choice.collection)}/report`)));
  } catch (error) {
    place.textContent = error.message;
  }
}

element("report").addEventListener("toggle", showReport);
element("left").addEventListener("change", () => {
  element("report-content").replaceChildren();
  showReport();
});
