"use strict";
{
  const say = (text) => { document.getElementById("said").textContent = text; };

  // --- Tables: a button in each heading sorts by its column; what is empty stays at the end ---
  const key = (cell) => {
    const text = cell.dataset.value ?? cell.firstElementChild.textContent.trim();
    const number = Number(text.replace(/[,\u2009%]/g, ""));
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const sort = (table, column, heading) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
    const known = rows.filter(([value]) => value !== null);
    const first = typeof known[0]?.[0] === "number" ? "descending" : "ascending";
    const other = { ascending: "descending", descending: "ascending" };
    const order = other[heading.getAttribute("aria-sort")] ?? first;
    known.sort(([a], [b]) => (order === "ascending" ? compare(a, b) : compare(b, a)));
    body.append(...known.map(([, row]) => row), ...rows.filter(([value]) => value === null).map(([, row]) => row));
    for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    say(`Sorted by ${heading.textContent}, ${order}`);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, column, heading));
      heading.append(button);
    }
  }

  // --- Pictures: a click, Enter or Space enlarges one; arrows go on to its neighbours, Escape back ---
  const dialog = document.getElementById("zoom");
  const stage = dialog.querySelector(".stage");
  const pictures = [...document.querySelectorAll("figure.picture")];
  let shown = 0;
  const show = (index) => {
    shown = (index + pictures.length) % pictures.length;
    const contents = [...pictures[shown].querySelector(".zoomer").children];
    const seen = contents.find((one) => one.getClientRects().length) ?? contents[0]; // of two plots the one that fits
    const copy = seen.cloneNode(true);
    if (!copy.matches(".chips")) copy.removeAttribute("style");
    stage.replaceChildren(copy);
    const name = copy.getAttribute("alt") ?? copy.getAttribute("aria-label") ?? copy.querySelector("img")?.alt;
    document.getElementById("zoom-caption").textContent =
      pictures[shown].querySelector("figcaption")?.textContent.trim() || name;
  };
  pictures.forEach((figure, index) => {
    const contents = [...figure.children].filter((one) => one.tagName !== "FIGCAPTION");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "zoomer";
    button.setAttribute("aria-haspopup", "dialog");
    figure.prepend(button);
    button.append(...contents);
    button.addEventListener("click", () => { show(index); dialog.showModal(); });
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    const step = event.target.closest("[data-step]");
    if (step) show(shown + Number(step.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) show(shown + step);
  });
  dialog.addEventListener("close", () => {
    stage.replaceChildren();
    pictures[shown].querySelector(".zoomer").focus();
  });

  // --- On paper nobody unfolds: tables that are folded away are printed as well, large sets of pictures are not ---
  const unfolded = [];
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details:not([open])")) {
      if (!one.querySelector(".gallery")) { one.open = true; unfolded.push(one); }
    }
  });
  addEventListener("afterprint", () => { for (const one of unfolded.splice(0)) one.open = false; });

  // --- Commands: copied with one click, where the browser lets a page do so ---
  for (const box of navigator.clipboard ? document.querySelectorAll(".command") : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      say("Copied");
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  }
}
