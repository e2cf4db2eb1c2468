// Search that finds the chapter before the mention. Sphinx calls Scorer.score for each result.
"use strict";
var Scorer = { // as a variable: Sphinx asks whether there is one
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
  // [page, title, anchor, description, score, file]
  score([page, title, anchor, , score]) {
    const asked = new URLSearchParams(location.search).get("q") || "";
    const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
    const inTitle = words.length && words.every((word) => title.toLowerCase().includes(word));
    const ofPage = !anchor && !title.includes(" > ");
    const generated = /^(genindex|py-modindex|_modules)/.test(page);
    return score + (inTitle ? (ofPage ? 40 : 15) : 0) - (page.includes("reference/") ? 10 : 0) - (generated ? 30 : 0);
  },
};
// A result's excerpt is cut from prose: no code, no list of contents. From a file nothing can be
// fetched, so there are titles alone.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  Search.htmlToText = (text, anchor) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const place = anchor ? page.getElementById(anchor.slice(1)) : null;
    const article = (place?.matches("dt") ? place.nextElementSibling : place) || page.querySelector("article") || page.body;
    for (const away of article.querySelectorAll(".headerlink, script, style, pre, details")) away.remove();
    const prose = article.querySelectorAll("h1, h2, h3, p, li, td, dd, figcaption");
    const whole = [...prose].filter((part) => !part.parentElement.closest("p, li, td, dd, figcaption"));
    return (whole.length ? whole : [article]).map((part) => part.textContent.replace(/\s+/g, " ").trim()).join(" \n");
  };
});
