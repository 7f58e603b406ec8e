"use strict";

// Tables: a click on a column's head sorts by it, a second click the other way. Empty cells stay last.
function keyOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
}

function sortBy(table, head) {
  const column = head.cellIndex;
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const x = keyOf(a, column), y = keyOf(b, column);
    if (x === "" || y === "") return (x === "") - (y === "");
    const difference = Number(x) - Number(y);
    return sign * (Number.isNaN(difference) ? x.localeCompare(y, undefined, { numeric: true }) : difference);
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.querySelectorAll("[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head));
    head.append(button);
  }
}

// Heatmaps: the slider fades a slide's heatmaps to its overview, which covers the same area.
for (const label of document.querySelectorAll(".fade")) {
  const slide = label.closest(".slide");
  const base = slide.querySelector("img.base");
  if (!base) continue;
  label.hidden = false;
  label.querySelector("input").addEventListener("input", (event) => {
    for (const layer of slide.querySelectorAll("img.layer")) {
      layer.parentNode.style.backgroundImage = `url("${base.src}")`;
      layer.style.opacity = event.target.value / 100;
    }
  });
}
