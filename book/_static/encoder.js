// The forward pass of the book's small vision transformer, in plain JavaScript, and what the
// chapter shows of it. Nothing here touches a page. Tokens lie row by row in Float32Arrays.
"use strict";

var BookEncoder = (() => {
  const MEAN = [0.485, 0.456, 0.406], STD = [0.229, 0.224, 0.225], EPS = 1e-6, EPS_STEM = 1e-5;

  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  // {name: {shape, scale}} and whole numbers of 16 bits, one tensor after the other.
  function unpack({ tensors, numbers }) {
    const raw = new DataView(bytes(numbers).buffer), found = {};
    let at = 0;
    for (const [name, { shape, scale }] of Object.entries(tensors)) {
      const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
      for (let i = 0; i < values.length; i++, at += 2) values[i] = raw.getInt16(at, true) * scale;
      found[name] = values;
    }
    return found;
  }

  // Rows (n, a) times a matrix (b, a), as torch.nn.Linear has it: (n, b).
  function linear(x, weight, bias) {
    const wide = bias.length, from = weight.length / wide, rows = x.length / from;
    const out = new Float32Array(rows * wide);
    for (let r = 0; r < rows; r++) {
      for (let o = 0; o < wide; o++) {
        let sum = bias[o];
        for (let i = 0, w = o * from, v = r * from; i < from; i++) sum += x[v + i] * weight[w + i];
        out[r * wide + o] = sum;
      }
    }
    return out;
  }

  // Each row by itself: mean 0, variance 1, then scaled and moved.
  function layerNorm(x, weight, bias, eps) {
    const wide = weight.length, out = new Float32Array(x.length);
    for (let r = 0; r < x.length; r += wide) {
      let mean = 0, variance = 0;
      for (let i = 0; i < wide; i++) mean += x[r + i] / wide;
      for (let i = 0; i < wide; i++) variance += (x[r + i] - mean) ** 2 / wide;
      const inverse = 1 / Math.sqrt(variance + eps);
      for (let i = 0; i < wide; i++) out[r + i] = (x[r + i] - mean) * inverse * weight[i] + bias[i];
    }
    return out;
  }

  // x Φ(x); Φ by Abramowitz and Stegun 7.1.26, which is right to 1.5e-7.
  function gelu(x) {
    return x.map((v) => {
      const z = Math.abs(v) / Math.SQRT2, t = 1 / (1 + 0.3275911 * z);
      const poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
      const erf = Math.sign(v) * (1 - poly * Math.exp(-z * z));
      return 0.5 * v * (1 + erf);
    });
  }

  // A 3 by 3 convolution with stride 2 and a border of zeros: pixels (side², a) to (side²/4, b).
  function halve(x, side, weight, bias) {
    const wide = bias.length, from = weight.length / (9 * wide), half = side / 2;
    const out = new Float32Array(half * half * wide);
    for (let y = 0; y < half; y++) for (let z = 0; z < half; z++) {
      for (let o = 0; o < wide; o++) {
        let sum = bias[o];
        for (let k = 0; k < 9; k++) {
          const row = 2 * y + Math.floor(k / 3) - 1, column = 2 * z + (k % 3) - 1;
          if (row < 0 || column < 0 || row >= side || column >= side) continue;
          const pixel = (row * side + column) * from;
          for (let i = 0; i < from; i++) sum += x[pixel + i] * weight[(o * from + i) * 9 + k];
        }
        out[(y * half + z) * wide + o] = sum;
      }
    }
    return out;
  }

  // Attention of all tokens: what comes out, and the class token's weights (heads, tokens).
  function attend(x, net, prefix, heads) {
    const wide = x.length / net.tokens, d = wide / heads, tokens = net.tokens;
    const qkv = linear(x, net.w[`${prefix}.qkv.weight`], net.w[`${prefix}.qkv.bias`]);
    const mixed = new Float32Array(x.length), looks = new Float32Array(heads * tokens);
    const scores = new Float64Array(tokens);
    for (let h = 0; h < heads; h++) for (let a = 0; a < tokens; a++) {
      const q = a * 3 * wide + h * d;
      let highest = -Infinity, sum = 0;
      for (let b = 0; b < tokens; b++) {
        const k = b * 3 * wide + wide + h * d;
        let dot = 0;
        for (let i = 0; i < d; i++) dot += qkv[q + i] * qkv[k + i];
        scores[b] = dot / Math.sqrt(d);
        highest = Math.max(highest, scores[b]);
      }
      for (let b = 0; b < tokens; b++) sum += scores[b] = Math.exp(scores[b] - highest);
      for (let b = 0; b < tokens; b++) {
        const share = scores[b] / sum, v = b * 3 * wide + 2 * wide + h * d;
        if (a === 0) looks[h * tokens + b] = share;
        for (let i = 0; i < d; i++) mixed[a * wide + h * d + i] += share * qkv[v + i];
      }
    }
    return { out: linear(mixed, net.w[`${prefix}.proj.weight`], net.w[`${prefix}.proj.bias`]), looks };
  }

  const add = (x, y) => x.map((v, i) => v + y[i]);

  // An encoder out of what the site stores of one.
  function open(stored) {
    const w = unpack(stored), { heads, patch, depth } = stored;

    // Colours 0 to 255, (side², 3), to the class token, the patch tokens and, for each block, the
    // class token's attention (heads, 1 + patches).
    function run(pixels, side) {
      let x = Float32Array.from(pixels, (v, i) => (v / 255 - MEAN[i % 3]) / STD[i % 3]);
      for (let i = 0; side >> i > side / patch; i++) {
        x = halve(x, side >> i, w[`patch_embed.convs.${i}.weight`], w[`patch_embed.convs.${i}.bias`]);
        x = gelu(layerNorm(x, w[`patch_embed.norms.${i}.weight`], w[`patch_embed.norms.${i}.bias`], EPS_STEM));
      }
      x = linear(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]);
      const wide = w["cls_token"].length, tokens = 1 + (side / patch) ** 2, net = { w, tokens };
      x = add(Float32Array.from([...w["cls_token"], ...x]), w[`positions.${side}`]);
      const attention = [];
      for (let n = 0; n < depth; n++) {
        const name = `blocks.${n}`, norm = (k) => layerNorm(x, w[`${name}.norm${k}.weight`], w[`${name}.norm${k}.bias`], EPS);
        const { out, looks } = attend(norm(1), net, `${name}.attn`, heads);
        attention.push(looks);
        x = add(x, out);
        const hidden = gelu(linear(norm(2), w[`${name}.mlp.fc1.weight`], w[`${name}.mlp.fc1.bias`]));
        x = add(x, linear(hidden, w[`${name}.mlp.fc2.weight`], w[`${name}.mlp.fc2.bias`]));
      }
      x = layerNorm(x, w["norm.weight"], w["norm.bias"], EPS);
      return { cls: x.slice(0, wide), patches: x.slice(wide), attention };
    }
    return { run, heads, depth, patch };
  }

  // Patch tokens (n, D) to their first three principal components (n, 3). In each direction the
  // largest loading is positive, as in dino_tutorial.evaluation.patch_pca.
  function components(patches, wide) {
    const n = patches.length / wide, x = new Float64Array(patches), square = new Float64Array(wide * wide);
    for (let i = 0; i < wide; i++) {
      let mean = 0;
      for (let r = 0; r < n; r++) mean += x[r * wide + i] / n;
      for (let r = 0; r < n; r++) x[r * wide + i] -= mean;
    }
    for (let r = 0; r < n; r++) for (let i = 0; i < wide; i++) for (let j = 0; j < wide; j++) {
      square[i * wide + j] += x[r * wide + i] * x[r * wide + j];
    }
    const out = new Float32Array(3 * n), known = [];
    for (let c = 0; c < 3; c++) { // power iteration, kept at right angles to what is known
      const v = Float64Array.from({ length: wide }, (_, i) => Math.sin(1 + i * (c + 1)));
      const next = new Float64Array(wide);
      for (let turn = 0; turn < 500; turn++) {
        next.fill(0);
        for (let i = 0; i < wide; i++) for (let j = 0; j < wide; j++) next[i] += square[i * wide + j] * v[j];
        for (const other of known) {
          let dot = 0;
          for (let i = 0; i < wide; i++) dot += next[i] * other[i];
          for (let i = 0; i < wide; i++) next[i] -= dot * other[i];
        }
        const length = Math.hypot(...next) || 1;
        for (let i = 0; i < wide; i++) v[i] = next[i] / length;
      }
      const largest = v.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
      if (largest < 0) for (let i = 0; i < wide; i++) v[i] = -v[i];
      known.push(v);
      for (let r = 0; r < n; r++) for (let i = 0; i < wide; i++) out[3 * r + c] += x[r * wide + i] * v[i];
    }
    return out;
  }

  // Each component from its 1st to its 99th percentile to 0..1.
  function colours(parts) {
    const n = parts.length / 3, out = new Float32Array(parts.length);
    for (let c = 0; c < 3; c++) {
      const sorted = Float32Array.from({ length: n }, (_, r) => parts[3 * r + c]).sort();
      const at = (share) => {
        const place = share * (n - 1), low = Math.floor(place);
        return sorted[low] + (place - low) * (sorted[Math.min(low + 1, n - 1)] - sorted[low]);
      };
      const low = at(0.01), span = at(0.99) - low > 1e-12 ? at(0.99) - low : 1;
      for (let r = 0; r < n; r++) out[3 * r + c] = Math.min(1, Math.max(0, (parts[3 * r + c] - low) / span));
    }
    return out;
  }

  // Images of the bank by cosine with a feature, the nearest first. The bank is stored as a mean
  // and what its rows differ from it, because all features have most in common.
  function nearest(feature, stored) {
    const { difference, mean } = unpack(stored), wide = mean.length, found = [];
    for (let r = 0; r < difference.length; r += wide) {
      let dot = 0, length = 0;
      for (let i = 0; i < wide; i++) {
        const value = mean[i] + difference[r + i];
        dot += value * feature[i];
        length += value * value;
      }
      found.push([dot / Math.sqrt(length) / Math.hypot(...feature), r / wide]);
    }
    return found.sort((a, b) => b[0] - a[0] || a[1] - b[1]).map(([cosine, index]) => ({ cosine, index }));
  }

  // (side², channels) to a third of the side, each pixel the mean of nine.
  function third(pixels, side) {
    const small = side / 3, out = new Float32Array(small * small * 3);
    for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) for (let c = 0; c < 3; c++) {
      out[3 * (Math.floor(y / 3) * small + Math.floor(x / 3)) + c] += pixels[3 * (y * side + x) + c] / 9;
    }
    return out.map(Math.round);
  }

  return { open, components, colours, nearest, third };
})();
