// Draws each chart in the colours that the reader prefers; until it is drawn, and on paper, its picture stands there.
// One after the other, so that the page answers meanwhile; those in a closed part when it is opened.
(function () {
  "use strict";
  const { themes, specs } = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  function draw(id) {
    const name = dark.matches ? "dark" : "light";
    const options = { renderer: "svg", actions: false, config: themes[name], tooltip: { theme: name } };
    const target = document.getElementById(id);
    target.classList.add("drawn");
    return window.vegaEmbed(target, specs[id], options).catch(function (error) {
      target.classList.remove("drawn");
      console.error(error);
    });
  }

  function drawAll(ids) {
    ids.reduce((before, id) => before.then(() => draw(id)), Promise.resolve());
  }

  function drawOpen() {
    const open = (id) => document.getElementById(id).closest("details:not([open])") === null;
    const next = Object.keys(specs).filter((id) => !drawn.has(id) && open(id));
    next.forEach((id) => drawn.add(id));
    drawAll(next);
  }

  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", drawOpen));
  dark.addEventListener("change", () => drawAll(Array.from(drawn)));
  drawOpen();
})();

// Sorting by a click on a heading; without JavaScript the table stands as it was written.
(function () {
  "use strict";
  function key(row, column) {
    const cell = row.cells[column];
    return "key" in cell.dataset ? cell.dataset.key : cell.textContent.trim().toLowerCase();
  }

  function compare(a, b, numeric) {
    if (a === "" || b === "") return (a === "") - (b === ""); // nothing to sort by: last in either direction
    return numeric ? a - b : a.localeCompare(b);
  }

  function sort(table, heading, column) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const numeric = Array.from(table.tBodies[0].rows).some((row) => "key" in row.cells[column].dataset);
    table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows).map((row) => [key(row, column), row]);
    rows.sort(function ([a], [b]) {
      const order = compare(a, b, numeric);
      return down && a !== "" && b !== "" ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    // a heading over several columns sorts nothing; the others stand in the order of the columns
    table.querySelectorAll("thead th:not([colspan])").forEach(function (heading, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, heading, column));
    });
  });
})();

// Showing only the rows that hold every word searched for, and the chosen verdict and kind of student.
(function () {
  "use strict";
  document.querySelectorAll("form.filter").forEach(function (form) {
    const rows = Array.from(document.getElementById(form.dataset.for).tBodies[0].rows);
    const count = form.querySelector("output");

    function filter() {
      const { words, verdict, init } = Object.fromEntries(new FormData(form));
      const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach(function (row) {
        const { words: has, verdict: is, init: from } = row.dataset;
        row.hidden = !(wanted.every((word) => has.includes(word)) && [is, ""].includes(verdict) && [from, ""].includes(init));
        shown += !row.hidden;
      });
      count.textContent = shown + " of " + rows.length;
    }

    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  });
})();

// On paper everything is open.
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach((part) => part.setAttribute("open", ""));
});
