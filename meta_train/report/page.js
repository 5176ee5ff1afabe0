"use strict";
// Everything can be read without this script: it sorts tables, and unfolds what is folded before printing.
const value = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.sort ?? (cell.classList.contains("number") ? "" : cell.textContent);
  if (text === "") return null;
  return text === "inf" ? Infinity : Number.isNaN(Number(text)) ? text : Number(text);
};
const order = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a < b ? -1 : Number(a > b);
  return String(a).localeCompare(String(b), "en", { numeric: true });
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const keyed = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
      keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * order(a, b)));
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    });
  });
}
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open])")) folded.open = true;
});
