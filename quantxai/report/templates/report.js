"use strict";
// Without this script every item is shown; with it, a few at a time and by variant, outcome or text.
const PAGE = 10;
for (const section of document.querySelectorAll("details.section")) {
  const form = section.querySelector("form");
  const items = [...section.querySelectorAll(".item")];
  const heads = [...section.querySelectorAll("thead [data-v]")];
  const cells = items.map((item) => [...item.querySelectorAll("[data-v]")]);
  const texts = items.map((item) => item.textContent.toLowerCase());
  const paging = section.querySelector(".paging");
  const page = section.dataset.layout === "facts" ? 3 * PAGE : PAGE;
  let shown = page;
  const update = () => {
    const { variant, outcome, text } = form.elements;
    const wanted = text.value.trim().toLowerCase();
    let matches = 0;
    items.forEach((item, index) => {
      const asked = cells[index].filter((cell) => !variant.value || cell.dataset.v === variant.value);
      const fits = asked.some((cell) => cell.dataset.o.includes(outcome.value)) && texts[index].includes(wanted);
      matches += fits ? 1 : 0;
      item.hidden = !fits || matches > shown;
      for (const cell of cells[index]) cell.hidden = other(cell, variant.value);
    });
    for (const head of heads) head.hidden = other(head, variant.value);
    form.querySelector("output").textContent = `${Math.min(matches, shown)} of ${matches} shown`;
    paging.hidden = matches <= shown;
  };
  const other = (cell, variant) => variant !== "" && cell.dataset.v !== variant && cell.dataset.v !== "0";
  form.addEventListener("input", () => { shown = page; update(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  section.querySelector(".moreitems").addEventListener("click", () => { shown += 2 * page; update(); });
  section.querySelector(".allitems").addEventListener("click", () => { shown = Infinity; update(); });
  form.hidden = false;
  update();
}
