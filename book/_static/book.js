document.addEventListener("DOMContentLoaded", () => {
  // The arrow that unfolds a chapter's pages in the menu has a name for those who do not see it.
  for (const summary of document.querySelectorAll(".bd-sidebar-primary summary")) {
    const chapter = summary.closest("li").querySelector("a").textContent.trim();
    summary.setAttribute("aria-label", `Pages of ${chapter}`);
  }
  // A table, a formula or a listing that is wider than the page scrolls. Let the keyboard reach it.
  const wide = ".bd-article table, .bd-article div.highlight pre, .bd-article .cell_output pre";
  const reach = () => {
    for (const element of document.querySelectorAll(wide)) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    }
  };
  reach();
  window.addEventListener("resize", reach);
});

// Paper is light, whatever the screen is.
let themeOfScreen;
window.addEventListener("beforeprint", () => {
  themeOfScreen = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
});
window.addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = themeOfScreen;
});
