// What a link leads to, beside it: a term's definition, a reference, a figure of this page. By
// mouse and by keyboard; Escape closes it, and the mouse may rest on it.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const box = document.createElement("div");
  box.id = "preview";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);
  let link = null, timer = 0;

  // The words or the picture for a link; null where there is nothing to show.
  function contents(of) {
    if (of.dataset.preview) return document.createTextNode(of.dataset.preview);
    const target = of.hash && of.pathname === location.pathname && document.getElementById(decodeURIComponent(of.hash.slice(1)));
    const figure = target && target.closest("figure");
    const picture = figure && figure.querySelector("img, svg");
    if (!picture || figure.querySelector("form")) return null;
    const copy = picture.cloneNode(true);
    copy.removeAttribute("loading");
    return copy;
  }

  function show(of) {
    const inside = contents(of);
    if (!inside) return;
    hide();
    link = of;
    box.replaceChildren(inside);
    box.hidden = false;
    const at = of.getClientRects()[0], { offsetWidth: wide, offsetHeight: high } = box;
    const room = document.documentElement.clientWidth - wide - 8;
    const below = at.bottom + high + 8 < innerHeight || at.top < high + 8;
    box.style.left = `${Math.max(8, Math.min(at.left, room)) + scrollX}px`;
    box.style.top = `${(below ? at.bottom + 4 : at.top - high - 4) + scrollY}px`;
    of.setAttribute("aria-describedby", "preview");
  }
  function hide() {
    clearTimeout(timer);
    if (link) link.removeAttribute("aria-describedby");
    link = null;
    box.hidden = true;
  }
  const soon = (action, milliseconds) => { clearTimeout(timer); timer = setTimeout(action, milliseconds); };

  for (const one of document.querySelectorAll(".bd-article a.reference.internal[href*='#']")) {
    if (one.title) {
      one.dataset.preview = one.title;
      one.removeAttribute("title"); // the browser would show it a second time
    }
    one.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && soon(() => show(one), 250));
    one.addEventListener("pointerleave", () => soon(hide, 250));
    one.addEventListener("focus", () => one.matches(":focus-visible") && show(one));
    one.addEventListener("blur", hide);
  }
  box.addEventListener("pointerenter", () => clearTimeout(timer));
  box.addEventListener("pointerleave", () => soon(hide, 250));
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
});
