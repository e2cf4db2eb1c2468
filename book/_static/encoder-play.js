// The figure of the chapter on what emerges that runs the book's encoder on a picture of the
// reader's. The encoder itself, encoder.js and encoder-data.js, comes when the reader asks for it.
"use strict";

(() => {
  const FOLDER = document.currentScript.src.replace(/[^/]*$/, ""), SHOWN = 8, VOTES = 20, MASS = 0.6;
  const HEAT = ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"]
    .map((code) => [0, 2, 4].map((at) => parseInt(code.slice(at, at + 2), 16)));
  const BLOCKS = ["first", "second", "third"];

  const load = (name) => new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = FOLDER + name;
    script.onload = done;
    script.onerror = () => failed(new Error(`${name} is not beside the book's other scripts, so there is no encoder to run`));
    document.head.append(script);
  });

  const opening = `
    <p>The encoder of this chapter fits into a page. It runs on your machine, and no picture leaves it.</p>
    <div class="buttons"><button type="button" class="open">Load the encoder (1.8 MB)</button></div>
    <p class="status" role="status"></p>`;
  const markup = (data) => `
    <div class="samples" role="group" aria-label="A test scene or a photograph">${data.samples.map(({ label, image }, i) =>
      `<button type="button" data-sample="${i}" aria-pressed="false"><img src="${image}" alt="${label}" width="48" height="48"></button>`).join("")}
    </div>
    <div class="buttons"><label class="pick"><input type="file" accept="image/*"><span>A picture of yours</span></label>
    <span class="hint">or drop one here</span></div>
    <p class="status" role="status"></p>
    <div class="maps"></div>
    <fieldset class="blocks"><legend>Attention in block</legend>${BLOCKS.map((name, i) =>
      `<label><input type="radio" name="block" value="${i}"${i ? "" : " checked"}><span>${name}</span></label>`).join("")}
    </fieldset>
    <p class="heading">Nearest training scenes</p>
    <div class="nearest"></div>`;

  // A canvas with words, added to a box; `paint` gets its pen and side.
  function tile(box, side, caption, words, paint) {
    const figure = document.createElement("div"), canvas = document.createElement("canvas"), text = document.createElement("span");
    canvas.width = canvas.height = side;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", words);
    text.textContent = caption;
    text.setAttribute("aria-hidden", "true");
    paint(canvas.getContext("2d"), side);
    figure.append(canvas, text);
    box.append(figure);
  }

  const colour = (strength) => {
    const place = Math.min(strength, 1) * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
    return HEAT[low].map((v, c) => v + (place - low) * (HEAT[low + 1][c] - v));
  };

  // Pixels (side², 3) to a canvas; each of them `zoom` wide.
  function paintPixels(pen, pixels, side, zoom = 1) {
    const image = pen.createImageData(side * zoom, side * zoom);
    for (let y = 0; y < side * zoom; y++) for (let x = 0; x < side * zoom; x++) {
      const from = 3 * (Math.floor(y / zoom) * side + Math.floor(x / zoom));
      image.data.set([pixels[from], pixels[from + 1], pixels[from + 2], 255], 4 * (y * side * zoom + x));
    }
    pen.putImageData(image, 0, 0);
  }

  // The dimmed image with the patches' shares of the attention laid over it, as in the chapter.
  function overlaid(pixels, side, shares) {
    const grid = Math.sqrt(shares.length), highest = Math.max(...shares), out = new Float32Array(pixels.length);
    for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) {
      const at = 3 * (y * side + x), cell = Math.floor(y * grid / side) * grid + Math.floor(x * grid / side);
      const strength = shares[cell] / highest, weight = 0.25 + 0.7 * strength, glow = colour(strength);
      const gray = 0.7 * (pixels[at] + pixels[at + 1] + pixels[at + 2]) / 3;
      for (let c = 0; c < 3; c++) out[at + c] = weight * glow[c] + (1 - weight) * gray;
    }
    return out;
  }

  // How few patches hold 60 % of the attention.
  function held(shares) {
    const sorted = [...shares].sort((a, b) => b - a), all = sorted.reduce((a, b) => a + b, 0);
    let n = 0;
    for (let sum = 0; sum < MASS * all; n++) sum += sorted[n];
    return n;
  }

  // The middle of a picture as the encoder takes it: colours (side², 3). Halved until it is near,
  // because browsers skip pixels when they shrink a picture much at once.
  function cropped(image, side) {
    let size = Math.min(image.width, image.height), canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.min(size, 2048);
    let pen = canvas.getContext("2d");
    pen.fillStyle = "#fff"; // below what is transparent
    pen.fillRect(0, 0, canvas.width, canvas.width);
    pen.drawImage(image, (image.width - size) / 2, (image.height - size) / 2, size, size, 0, 0, canvas.width, canvas.width);
    while (canvas.width !== side) {
      size = canvas.width >= 2 * side ? Math.floor(canvas.width / 2) : side;
      const smaller = document.createElement("canvas");
      smaller.width = smaller.height = size;
      pen = smaller.getContext("2d");
      pen.imageSmoothingQuality = "high";
      pen.drawImage(canvas, 0, 0, size, size);
      canvas = smaller;
    }
    return Float32Array.from(pen.getImageData(0, 0, side, side).data.filter((_, i) => i % 4 !== 3));
  }

  async function start(root) {
    const find = (selector) => root.querySelector(selector);
    const say = (words) => { find(".status").textContent = words; };
    // On paper there is nothing to load: what the page says without scripts is printed instead.
    root.innerHTML = `${opening}<div class="paper">${root.innerHTML}</div>`;
    find(".open").onclick = async () => {
      find(".open").disabled = true;
      say("Loading …");
      try {
        await Promise.all([load("encoder.js"), load("encoder-data.js")]);
        const sheet = await createImageBitmap(await picture(bookEncoderData.bank.sheet));
        play(sheet);
      } catch (error) {
        say(`${error.message}.`);
        find(".open").disabled = false;
      }
    };

    function play(sheet) {
      const data = bookEncoderData, encoder = BookEncoder.open(data), [side, small] = data.sides;
      const grid = side / encoder.patch;
      let pixels, seen;
      root.innerHTML = markup(data);

      function drawMaps() {
        const box = find(".maps"), block = +find("[name=block]:checked").value, looks = seen.attention[block];
        const tokens = looks.length / encoder.heads;
        const shares = Array.from({ length: encoder.heads }, (_, h) => looks.slice(h * tokens + 1, (h + 1) * tokens));
        const mean = shares[0].map((_, i) => shares.reduce((sum, one) => sum + one[i] / shares.length, 0));
        box.replaceChildren();
        tile(box, side, "the encoder sees", `The picture, ${side} by ${side} pixels`, (pen) => paintPixels(pen, pixels, side));
        [...shares, mean].forEach((one, h) => {
          const name = h < encoder.heads ? `head ${h + 1}` : "mean head";
          const words = `Attention of the ${name} in the ${BLOCKS[block]} block: ${held(one)} of ${one.length} patches hold 60 percent of it`;
          tile(box, side, name, words, (pen) => paintPixels(pen, overlaid(pixels, side, one), side));
        });
        const colours = BookEncoder.colours(seen.components).map((v) => 255 * v);
        tile(box, side, "components", "Three principal components of the patch tokens as colours", (pen) => paintPixels(pen, colours, grid, encoder.patch));
      }

      function drawNearest(near) {
        const box = find(".nearest"), { labels, columns } = data.bank;
        box.replaceChildren();
        for (const { index } of near.slice(0, SHOWN)) {
          const kind = data.classes[labels[index]];
          tile(box, small, kind, `A training scene: ${kind}`, (pen) => pen.drawImage(
            sheet, (index % columns) * small, Math.floor(index / columns) * small, small, small, 0, 0, small, small));
        }
        const votes = near.slice(0, VOTES).map(({ index }) => data.classes[labels[index]]);
        const count = (kind) => votes.filter((one) => one === kind).length;
        const first = votes.reduce((best, kind) => (count(kind) > count(best) ? kind : best));
        return `${count(first)} of its ${VOTES} nearest training scenes are of the kind “${first}”.`;
      }

      function show(image, name) {
        say("Looking …");
        setTimeout(() => { // so that the words are seen before the work begins
          pixels = cropped(image, side);
          seen = encoder.run(pixels, side);
          seen.components = BookEncoder.components(seen.patches, seen.cls.length);
          const { cls } = encoder.run(BookEncoder.third(pixels, side), small);
          drawMaps();
          const votes = drawNearest(BookEncoder.nearest(cls, data.bank));
          root.classList.add("shown");
          say(`${name}. ${votes}`);
        }, 30);
      }

      async function take(file) {
        try {
          show(await createImageBitmap(file), `Your picture: ${file.name}`);
          for (const button of root.querySelectorAll("[data-sample]")) button.setAttribute("aria-pressed", "false");
        } catch {
          say(`${file.name} cannot be read as a picture: take a JPEG, PNG or WebP file.`);
        }
      }

      root.addEventListener("click", async ({ target }) => {
        const button = target.closest("[data-sample]");
        if (!button) return;
        for (const other of root.querySelectorAll("[data-sample]")) other.setAttribute("aria-pressed", String(other === button));
        const { image, words } = data.samples[button.dataset.sample];
        show(await createImageBitmap(await picture(image)), words);
      });
      find("[type=file]").onchange = ({ target }) => target.files[0] && take(target.files[0]);
      for (const input of root.querySelectorAll("[name=block]")) input.onchange = drawMaps;
      root.addEventListener("dragover", (event) => event.preventDefault());
      root.addEventListener("drop", (event) => {
        event.preventDefault();
        if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
      });
      find("[data-sample]").focus();
      find("[data-sample]").click();
    }
  }

  // An <img> of an address that holds the picture itself.
  async function picture(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    return image;
  }

  for (const root of document.querySelectorAll(".encoder-play")) start(root);
})();
