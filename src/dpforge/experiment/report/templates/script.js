"use strict";
(() => {
  const texts = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  function compare(left, right, number) {
    return number ? Number(left) - Number(right) : texts.compare(left, right);
  }

  // Missing values stay last in both directions; equal rows keep their order.
  function sort(table, column, descending) {
    const number = table.tHead.rows[0].cells[column].classList.contains("number");
    const key = (row) => row.cells[column].dataset.value;
    const rows = Array.from(table.tBodies[0].rows);
    const present = rows.filter((row) => key(row) !== "");
    const missing = rows.filter((row) => key(row) === "");
    const sign = descending ? -1 : 1;
    present.sort((a, b) => sign * compare(key(a), key(b), number) || 0);
    table.tBodies[0].append(...present, ...missing);
  }

  function onHeading(event) {
    const heading = event.currentTarget.closest("th");
    const table = heading.closest("table");
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(table, heading.cellIndex, descending);
  }

  for (const button of document.querySelectorAll("table.sortable th button")) {
    button.addEventListener("click", onHeading);
  }

  // A picture wider than its card can be seen at full size; the card scrolls, the page does not.
  function onZoom(event) {
    const button = event.currentTarget;
    const full = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(full));
    button.textContent = full ? "fit" : "full size";
    button.closest("figure").classList.toggle("full", full);
  }

  function offerZoom(figure) {
    const image = figure.querySelector("img");
    figure.querySelector("button.zoom").hidden = image.naturalWidth <= 1.3 * image.clientWidth;
  }

  addEventListener("load", () => {
    for (const figure of document.querySelectorAll("figure")) {
      figure.querySelector("button.zoom").addEventListener("click", onZoom);
      offerZoom(figure);
    }
  });
})();
