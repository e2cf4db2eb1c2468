// A table, a formula or a listing that is wider than the page scrolls. Let the keyboard reach it.
document.addEventListener("DOMContentLoaded", () => {
  const wide = ".bd-article table, .bd-article div.highlight pre, .bd-article .cell_output pre";
  for (const element of document.querySelectorAll(wide)) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
  }
});
