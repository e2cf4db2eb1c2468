// The collapse clinic of the chapter on centering: trains collapse-toy.js and draws it.
"use strict";

(() => {
  const T = CollapseToy, { PRESETS, diagnose } = T, K = T.PROTOTYPES, STILL = 400; // steps; what a page that is printed shows
  const COLOURS = { // on a light card, on a dark one: those of dino_tutorial/plots/style.py
    light: {
      card: "#fefefd", ink: "#1f2428", muted: "#5b646d", grid: "#e3e6e9",
      loss: "#a84900", teacher: "#006e50", batch: "#005f96", purity: "#9a3f70",
      prototypes: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b5a800", "#1f2428"],
    },
    dark: {
      card: "#191d23", ink: "#e9ebee", muted: "#a6afb9", grid: "#323940",
      loss: "#f79c66", teacher: "#5ed6b0", batch: "#7cc4f2", purity: "#e9aecf",
      prototypes: ["#4fa9de", "#ee7d3b", "#3cc299", "#dd97bf", "#f0b537", "#8ccff4", "#f5ec74", "#e9ebee"],
    },
  };
  const CONTROLS = {
    studentTemp: ["student temperature", [0.05, 0.07, 0.1, 0.15, 0.2, 0.3]],
    teacherTemp: ["teacher temperature", [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2]],
    centerMomentum: ["center momentum", [0, 0.5, 0.9, 0.97, 0.99, 0.999, 1]],
    momentum: ["teacher momentum", [0, 0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]],
    learningRate: ["learning rate", [0.001, 0.002, 0.005, 0.01, 0.02, 0.05]],
  };
  const SWITCHES = { centering: "centering", stopGradient: "stop-gradient" };

  const markup = () => `
    <fieldset class="presets"><legend>What is taken away</legend>${Object.keys(PRESETS).map((name, i) =>
      `<label><input type="radio" name="preset" value="${name}"${i ? "" : " checked"}><span>${name}</span></label>`).join("")}
    </fieldset>
    <p class="sentence"></p>
    <div class="buttons">
      <button type="button" class="run">Start</button>
      <button type="button" class="one">Step</button>
      <button type="button" class="reset">Reset</button>
      <button type="button" class="other">Another start</button>
    </div>
    <div class="pictures">
      <canvas class="plane" role="img"></canvas>
      <canvas class="curves" role="img"></canvas>
    </div>
    <p class="numbers"></p>
    <p class="diagnosis" role="status"></p>
    <div class="controls">${Object.entries(CONTROLS).map(([key, [name, values]]) =>
      `<label><span class="name">${name} <span class="value" aria-hidden="true"></span></span>
       <input type="range" name="${key}" min="0" max="${values.length - 1}" step="1"></label>`).join("")}
      <div>${Object.entries(SWITCHES).map(([key, name]) =>
        `<label class="switch"><input type="checkbox" name="${key}">${name}</label>`).join("")}</div>
    </div>`;

  const SHAPES = [ // one for each prototype, so that no colour is needed; corners on a unit circle
    null, [[-.8, -.8], [.8, -.8], [.8, .8], [-.8, .8]], [[0, -1.1], [1, .75], [-1, .75]], [[0, -1.2], [1, 0], [0, 1.2], [-1, 0]],
    [[0, 1.1], [1, -.75], [-1, -.75]],
    [[-.35, -1], [.35, -1], [.35, -.35], [1, -.35], [1, .35], [.35, .35], [.35, 1], [-.35, 1], [-.35, .35], [-1, .35], [-1, -.35], [-.35, -.35]],
    [[0, -.5], [.6, -1.1], [1.1, -.6], [.5, 0], [1.1, .6], [.6, 1.1], [0, .5], [-.6, 1.1], [-1.1, .6], [-.5, 0], [-1.1, -.6], [-.6, -1.1]],
    Array.from({ length: 10 }, (_, i) => [(i % 2 ? 0.5 : 1.25) * Math.sin(i * Math.PI / 5), -(i % 2 ? 0.5 : 1.25) * Math.cos(i * Math.PI / 5)]),
  ];
  function mark(pen, shape, x, y, r) {
    pen.beginPath();
    if (SHAPES[shape]) SHAPES[shape].forEach(([a, b]) => pen.lineTo(x + r * a, y + r * b));
    else pen.arc(x, y, r, 0, 2 * Math.PI);
    pen.closePath();
  }

  // A pen on a canvas of `height(width)` CSS pixels, sharp on any screen and on paper.
  function penOn(canvas, height) {
    const width = canvas.clientWidth || 320, tall = height(width), scale = Math.max(2, window.devicePixelRatio || 1);
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(tall * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(tall * scale);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, tall);
    pen.font = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif";
    return { pen, width, tall };
  }
  const best = (p, n) => {
    let k = 0;
    for (let i = 1; i < K; i++) if (p[n * K + i] > p[n * K + k]) k = i;
    return k;
  };
  const sureness = (q) => Math.max(0, (q - 1 / K) / (1 - 1 / K));

  // The plane: background and points by prototype, strong where the teacher is sure; below it the
  // mean answer, one bar a prototype.
  const CELLS = 44, BARS = 62, map = document.createElement("canvas");
  map.width = map.height = CELLS;
  const places = new Float64Array(2 * CELLS * CELLS);
  for (let i = 0; i < CELLS * CELLS; i++) {
    places[2 * i] = ((i % CELLS) + 0.5) / CELLS * 2.4 - 1.2;
    places[2 * i + 1] = (Math.floor(i / CELLS) + 0.5) / CELLS * 2.4 - 1.2;
  }
  function drawPlane(canvas, toy, options, m, colours) {
    const { pen, width } = penOn(canvas, (w) => w + BARS), field = T.answers(toy, places, options);
    const small = map.getContext("2d"), pixels = small.createImageData(CELLS, CELLS);
    for (let i = 0; i < CELLS * CELLS; i++) {
      const k = best(field, i), colour = parseInt(colours.prototypes[k].slice(1), 16);
      pixels.data.set([colour >> 16, (colour >> 8) & 255, colour & 255, 105 * sureness(field[i * K + k])], 4 * i);
    }
    small.putImageData(pixels, 0, 0);
    pen.drawImage(map, 0, 0, width, width);
    pen.lineWidth = 1.2;
    for (let n = 0; n < T.POINTS; n++) {
      const k = best(m.answers, n);
      mark(pen, k, (toy.x[2 * n] + 1.2) / 2.4 * width, (toy.x[2 * n + 1] + 1.2) / 2.4 * width, 3.6);
      pen.globalAlpha = 1;
      pen.fillStyle = colours.card;
      pen.fill();
      pen.globalAlpha = sureness(m.answers[n * K + k]);
      pen.fillStyle = colours.prototypes[k];
      pen.fill();
      pen.globalAlpha = 1;
      pen.strokeStyle = colours.prototypes[k];
      pen.stroke();
    }
    pen.strokeStyle = colours.grid;
    pen.strokeRect(0.5, 0.5, width - 1, width - 1);
    const room = width / K, top = width + 20, tall = 24;
    pen.fillStyle = colours.muted;
    pen.textAlign = "left";
    pen.fillText("mean answer: share of each prototype", 0, width + 14);
    for (let k = 0; k < K; k++) {
      let share = 0;
      for (let n = 0; n < T.POINTS; n++) share += m.answers[n * K + k] / T.POINTS;
      pen.fillStyle = colours.prototypes[k];
      pen.fillRect(k * room + 3, top + tall * (1 - share), room - 6, tall * share + 1);
      mark(pen, k, (k + 0.5) * room, top + tall + 10, 4);
      pen.fill();
    }
    pen.strokeStyle = colours.muted;
    pen.beginPath(); pen.moveTo(0, top + tall + 1.5); pen.lineTo(width, top + tall + 1.5); pen.stroke();
  }

  // The curves: entropies and loss in nats, the gap between the entropies shaded; below, purity.
  const LEFT = 40, RIGHT = 6;
  function drawCurves(canvas, rows, colours) {
    const { pen, width, tall } = penOn(canvas, (w) => Math.max(300, Math.min(w + BARS, 400)));
    const last = rows[rows.length - 1].step, end = Math.max(200, Math.ceil(last / 100) * 100);
    const x = (step) => LEFT + (width - LEFT - RIGHT) * step / end;
    const split = Math.round(tall * 0.62), high = T.LN_K * 1.35;
    const nats = (v) => split - 26 - (split - 62) * Math.min(v, high) / high;
    const share = (v) => tall - 22 - (tall - split - 46) * v;
    const line = (name, y, colour, dash, thick = 1.8) => {
      pen.beginPath();
      rows.forEach((row, i) => Number.isNaN(row[name]) ? 0 : pen[i ? "lineTo" : "moveTo"](x(row.step), y(row[name])));
      pen.strokeStyle = colour; pen.lineWidth = thick; pen.setLineDash(dash); pen.stroke(); pen.setLineDash([]);
    };
    const axis = (y, ticks, format) => {
      pen.lineWidth = 1; pen.textAlign = "right";
      for (const tick of ticks) {
        pen.strokeStyle = colours.grid; pen.fillStyle = colours.muted;
        pen.beginPath(); pen.moveTo(LEFT, y(tick)); pen.lineTo(width - RIGHT, y(tick)); pen.stroke();
        pen.fillText(format(tick), LEFT - 5, y(tick) + 4);
      }
    };
    const level = (y, words) => {
      pen.beginPath(); pen.moveTo(LEFT, y); pen.lineTo(width - RIGHT, y);
      pen.setLineDash([2, 3]); pen.strokeStyle = colours.ink; pen.stroke(); pen.setLineDash([]);
      pen.textAlign = "right"; pen.fillStyle = colours.ink; pen.fillText(words, width - RIGHT, y - 4);
    };
    const words = (list, y) => { // a legend of coloured words, the line's dash before each
      let at = LEFT;
      pen.textAlign = "left";
      for (const [text, colour, dash] of list) {
        pen.strokeStyle = pen.fillStyle = colour; pen.lineWidth = 2; pen.setLineDash(dash);
        pen.beginPath(); pen.moveTo(at, y - 4); pen.lineTo(at + 16, y - 4); pen.stroke(); pen.setLineDash([]);
        pen.fillText(text, at + 20, y);
        at += 28 + pen.measureText(text).width;
      }
    };
    axis(nats, [0, 1, 2], String);
    pen.beginPath(); // what an answer tells about its point
    rows.forEach((row) => pen.lineTo(x(row.step), nats(row.batchEntropy)));
    [...rows].reverse().forEach((row) => pen.lineTo(x(row.step), nats(row.teacherEntropy)));
    pen.globalAlpha = 0.18; pen.fillStyle = colours.batch; pen.fill(); pen.globalAlpha = 1;
    level(nats(T.LN_K), "ln K");
    line("loss", nats, colours.loss, [], 1.2);
    line("batchEntropy", nats, colours.batch, [6, 2]);
    line("teacherEntropy", nats, colours.teacher, [2, 2]);
    const { loss } = rows[rows.length - 1];
    if (loss > high) {
      pen.textAlign = "right"; pen.fillStyle = colours.loss; pen.fillText(`↑ ${loss.toFixed(1)}`, width - RIGHT, nats(high) - 5);
    }
    words([["batch entropy", colours.batch, [6, 2]], ["teacher entropy", colours.teacher, [2, 2]]], 12);
    words([["loss, in nats", colours.loss, []]], 28);
    axis(share, [0, 0.5, 1], (v) => `${100 * v}%`);
    level(share(1 / T.CLUSTERS), "chance");
    line("purity", share, colours.purity, []);
    words([["cluster purity", colours.purity, []]], split + 8);
    pen.fillStyle = colours.muted;
    pen.textAlign = "left"; pen.fillText("step 0", LEFT, tall - 4);
    pen.textAlign = "right"; pen.fillText(String(end), width - RIGHT, tall - 4);
  }

  function start(root) {
    root.innerHTML = markup();
    const find = (selector) => root.querySelector(selector), calm = matchMedia("(prefers-reduced-motion: reduce)");
    let seed = 2, toy, rows, options = { ...T.DEFAULTS }, running = 0, printing = false;
    const take = () => rows.push(T.measure(toy, options));
    const diagnosis = () => diagnose(rows[rows.length - 1]);

    function draw() {
      const dark = !printing && document.documentElement.dataset.theme === "dark";
      const colours = COLOURS[dark ? "dark" : "light"], m = rows[rows.length - 1];
      drawPlane(find(".plane"), toy, options, m, colours);
      drawCurves(find(".curves"), rows, colours);
      const nats = (v) => (Number.isNaN(v) ? "–" : v.toFixed(2));
      find(".numbers").textContent = `step ${m.step} · loss ${nats(m.loss)} (ln K ${T.LN_K.toFixed(2)}) · batch entropy ${nats(m.batchEntropy)} · teacher entropy ${nats(m.teacherEntropy)} · purity ${Math.round(100 * m.purity)} %`;
      if (find(".diagnosis").textContent !== diagnosis()) find(".diagnosis").textContent = diagnosis();
      const used = new Set(Array.from({ length: T.POINTS }, (_, n) => best(m.answers, n))).size;
      find(".plane").setAttribute("aria-label", `${T.POINTS} points in ${T.CLUSTERS} clusters, marked by the prototype that the teacher gives them: ${used} of ${K} are in use. ${diagnosis()}`);
      find(".curves").setAttribute("aria-label", `Loss ${nats(m.loss)}, batch entropy ${nats(m.batchEntropy)} and teacher entropy ${nats(m.teacherEntropy)} nats, cluster purity ${Math.round(100 * m.purity)} percent after ${m.step} steps.`);
    }
    function advance(steps) {
      for (let i = 0; i < steps; i++) {
        T.step(toy, options);
        if (toy.step % 2 === 0 || steps === 1) take();
      }
      if (rows.length > 1200) rows = rows.filter((_, i) => i % 2 === 0 || i === rows.length - 1);
    }
    function reset() {
      toy = T.create(seed);
      rows = [];
      take();
      draw();
    }
    function tick() {
      advance(calm.matches ? 20 : 2);
      draw();
      running = calm.matches ? setTimeout(tick, 600) : requestAnimationFrame(tick);
    }
    function pause() {
      cancelAnimationFrame(running); clearTimeout(running);
      running = 0;
      find(".run").textContent = "Start";
    }
    function showControls() {
      for (const [key, [, values]] of Object.entries(CONTROLS)) {
        const input = find(`[name=${key}]`);
        input.value = values.indexOf(options[key]);
        input.setAttribute("aria-valuetext", options[key]);
        input.previousElementSibling.querySelector(".value").textContent = options[key];
      }
      for (const key of Object.keys(SWITCHES)) find(`[name=${key}]`).checked = options[key];
      find("[name=centerMomentum]").disabled = !options.centering;
      find("[name=momentum]").disabled = !options.stopGradient;
    }
    function choose(name) {
      options = { ...T.DEFAULTS, ...PRESETS[name][0] };
      find(".sentence").textContent = PRESETS[name][1];
      showControls();
      reset();
    }

    find(".run").onclick = () => {
      if (running) { pause(); take(); draw(); return; }
      find(".run").textContent = "Pause";
      tick();
    };
    find(".one").onclick = () => { pause(); advance(1); draw(); };
    find(".reset").onclick = () => { pause(); reset(); };
    find(".other").onclick = () => { seed += 1; reset(); };
    root.addEventListener("input", ({ target }) => {
      if (target.name === "preset") return choose(target.value);
      options[target.name] = target.name in SWITCHES ? target.checked : CONTROLS[target.name][1][target.value];
      find(".sentence").textContent = "Your own settings, from this step on. Reset starts again from the same weights.";
      const preset = find("[name=preset]:checked");
      if (preset) preset.checked = false;
      showControls();
      draw();
    });
    new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    new ResizeObserver(draw).observe(find(".pictures"));
    window.addEventListener("beforeprint", () => { // paper gets a still: a training from beginning to end
      pause();
      printing = true;
      if (toy.step === 0) advance(STILL);
      draw();
    });
    window.addEventListener("afterprint", () => { printing = false; draw(); });
    new IntersectionObserver(([seen]) => { if (!seen.isIntersecting) pause(); }).observe(root);
    choose("Healthy");
  }

  for (const root of document.querySelectorAll(".collapse-clinic")) start(root);
})();
