// Draws each chart in the colours that the reader prefers; until it is drawn, and on paper, its picture stands there.
(function () {
  "use strict";
  const { themes, specs } = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function draw() {
    const name = dark.matches ? "dark" : "light";
    const options = { renderer: "svg", actions: false, config: themes[name], tooltip: { theme: name } };
    Object.entries(specs).forEach(function ([id, spec]) {
      const target = document.getElementById(id);
      target.classList.add("drawn");
      window.vegaEmbed(target, spec, options).catch(function (error) {
        target.classList.remove("drawn");
        console.error(error);
      });
    });
  }

  dark.addEventListener("change", draw);
  draw();
})();
