// On a phone nothing but code is pushed sideways to be read. A table that is wider than the page is
// set smaller; if that does not do, each of its rows becomes a paragraph whose cells have the names
// of their columns. A formula is set as small as it has to be.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const phone = matchMedia("(max-width: 576px)");
  const overflows = (e) => e.scrollWidth > e.clientWidth + 1;

  function fitTable(table) {
    table.classList.remove("small", "rows");
    if (phone.matches && overflows(table)) table.classList.add("small");
    if (phone.matches && overflows(table)) table.classList.add("rows");
  }

  function fitFormula(formula) {
    formula.style.removeProperty("font-size");
    if (!phone.matches || !overflows(formula)) return;
    const now = parseFloat(getComputedStyle(formula).fontSize);
    const fitting = Math.floor((now * formula.clientWidth) / formula.scrollWidth * 10) / 10;
    formula.style.setProperty("font-size", `${fitting}px`, "important");
  }

  // Seen once, and whenever the page, a fold or a font has given another width.
  const widths = new WeakMap();
  const observer = new ResizeObserver((entries) => requestAnimationFrame(() => {
    for (const { target } of entries) {
      const width = target.parentElement.clientWidth;
      if (widths.get(target) === width && !overflows(target)) continue;
      widths.set(target, width);
      (target.matches("table") ? fitTable : fitFormula)(target);
    }
  }));

  for (const table of document.querySelectorAll(".bd-article table:not(.settings)")) {
    const names = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, i) => { cell.dataset.column = names[i] || ""; });
    }
    if (names.length > 1) observer.observe(table);
  }
  (window.MathJax?.startup?.promise || Promise.resolve()).then(() => {
    for (const formula of document.querySelectorAll('.bd-article mjx-container[display="true"]')) {
      observer.observe(formula);
    }
  });
});
