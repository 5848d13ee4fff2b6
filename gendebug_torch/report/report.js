"use strict";
// Filters, search and sorting of the findings; without this script the page shows all of them.
(() => {
  const list = document.getElementById("list");
  const controls = document.getElementById("controls");
  const rows = [...list.querySelectorAll(":scope > details")];
  const search = document.getElementById("search");
  const chosen = () => new Set([...controls.querySelectorAll("[name=severity]:checked")].map((box) => box.value));
  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const severities = chosen();
    for (const row of rows) {
      row.hidden = !severities.has(row.dataset.severity) || !words.every((word) => text.get(row).includes(word));
    }
    const count = rows.filter((row) => !row.hidden).length;
    document.getElementById("shown").textContent = count === rows.length ? "" : `${count} of ${rows.length}`;
  };

  const sort = () => {
    const key = document.getElementById("sort").value;
    const value = (row) => row.dataset[key] ?? "";
    list.append(...rows.toSorted((a, b) => value(a).localeCompare(value(b)) || rows.indexOf(a) - rows.indexOf(b)));
  };

  const copy = async (button) => {
    const field = document.createElement("textarea");
    field.value = button.closest(".inside").querySelector(".markdown").textContent;
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.textContent = "Copied";
  };

  const reveal = () => {
    let place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    place?.removeAttribute("hidden");
    for (let at = place; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    place?.scrollIntoView();
  };

  if (rows.length > 1) controls.hidden = false;
  controls.addEventListener("input", (event) => (event.target.id === "sort" ? sort() : filter()));
  controls.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("unfold").addEventListener("click", (event) => {
    const open = event.target.textContent === "Open all";
    for (const row of rows) row.open = open;
    event.target.textContent = open ? "Close all" : "Open all";
  });
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => closed.forEach((part) => (part.open = false)));
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();
})();
