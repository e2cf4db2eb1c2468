// DINO in two dimensions: points, a student, its teacher, the loss and its gradient by hand.
// The drawing is in collapse-clinic.js; tests/site/test_collapse_toy.py holds this file equal to
// the package's DINOLoss. Names are those of the book: B, K, student_temp, teacher_temp, center.
"use strict";

const CollapseToy = (() => {
  const INPUTS = 2, HIDDEN = 32, FEATURES = 8, PROTOTYPES = 8, CLUSTERS = 5;
  const POINTS = 300, BATCH = 64, NOISE = 0.14;
  const LN_K = Math.log(PROTOTYPES);

  // Marsaglia's polar method over mulberry32, so that a seed gives the same points everywhere.
  function randomNumbers(seed) {
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const normal = () => {
      for (;;) {
        const u = 2 * uniform() - 1, v = 2 * uniform() - 1, s = u * u + v * v;
        if (s > 0 && s < 1) return u * Math.sqrt((-2 * Math.log(s)) / s);
      }
    };
    return { uniform, normal };
  }

  // Clusters on a ring, each point with the number of its cluster, which training never sees.
  function makePoints(random) {
    const x = new Float64Array(2 * POINTS), cluster = new Uint8Array(POINTS);
    for (let n = 0; n < POINTS; n++) {
      const angle = (2 * Math.PI * (n % CLUSTERS)) / CLUSTERS + 0.3;
      cluster[n] = n % CLUSTERS;
      x[2 * n] = 0.72 * Math.cos(angle) + 0.11 * random.normal();
      x[2 * n + 1] = 0.72 * Math.sin(angle) + 0.11 * random.normal();
    }
    return { x, cluster };
  }

  function makeNetwork(random) {
    const fill = (size, scale) => Float64Array.from({ length: size }, () => scale * random.normal());
    return { // large biases: at the start the features of all points have a large common part
      w1: fill(HIDDEN * INPUTS, 0.3), b1: fill(HIDDEN, 1),
      w2: fill(FEATURES * HIDDEN, 1 / Math.sqrt(HIDDEN)), b2: fill(FEATURES, 3),
      v: fill(PROTOTYPES * FEATURES, 1), // prototypes, of length 1 where they are used
    };
  }

  const each = (net, make) => Object.fromEntries(Object.entries(net).map(([name, a]) => [name, make(a)]));
  const like = (net) => each(net, (a) => new Float64Array(a.length));
  const copy = (net) => each(net, (a) => a.slice());

  // x (B, 2) -> logits (B, K): cosines between feature and prototype, as in DINO's head.
  function forward(net, x) {
    const rows = x.length / INPUTS;
    const h = new Float64Array(rows * HIDDEN), f = new Float64Array(rows * FEATURES);
    const length = new Float64Array(rows), logits = new Float64Array(rows * PROTOTYPES);
    const w = new Float64Array(net.v.length), vLength = new Float64Array(PROTOTYPES);
    for (let k = 0; k < PROTOTYPES; k++) {
      let s = 0;
      for (let d = 0; d < FEATURES; d++) s += net.v[k * FEATURES + d] ** 2;
      vLength[k] = Math.sqrt(s);
      for (let d = 0; d < FEATURES; d++) w[k * FEATURES + d] = net.v[k * FEATURES + d] / vLength[k];
    }
    for (let n = 0; n < rows; n++) {
      for (let j = 0; j < HIDDEN; j++) {
        h[n * HIDDEN + j] = Math.tanh(
          net.w1[2 * j] * x[2 * n] + net.w1[2 * j + 1] * x[2 * n + 1] + net.b1[j]);
      }
      let s = 0;
      for (let d = 0; d < FEATURES; d++) {
        let z = net.b2[d];
        for (let j = 0; j < HIDDEN; j++) z += net.w2[d * HIDDEN + j] * h[n * HIDDEN + j];
        f[n * FEATURES + d] = z;
        s += z * z;
      }
      length[n] = Math.sqrt(s) + 1e-12;
      for (let d = 0; d < FEATURES; d++) f[n * FEATURES + d] /= length[n];
      for (let k = 0; k < PROTOTYPES; k++) {
        let dot = 0;
        for (let d = 0; d < FEATURES; d++) dot += f[n * FEATURES + d] * w[k * FEATURES + d];
        logits[n * PROTOTYPES + k] = dot;
      }
    }
    return { x, h, f, length, w, vLength, logits };
  }

  // Add to `grad` what dLogits (B, K), the gradient by the logits of `out`, is by the weights.
  function backward(net, out, dLogits, grad) {
    const rows = out.length.length, dw = new Float64Array(net.v.length);
    const df = new Float64Array(FEATURES), dh = new Float64Array(HIDDEN);
    for (let n = 0; n < rows; n++) {
      df.fill(0); dh.fill(0);
      for (let k = 0; k < PROTOTYPES; k++) {
        const g = dLogits[n * PROTOTYPES + k];
        for (let d = 0; d < FEATURES; d++) {
          df[d] += g * out.w[k * FEATURES + d];
          dw[k * FEATURES + d] += g * out.f[n * FEATURES + d];
        }
      }
      let along = 0; // of the gradient, the part that only makes the feature longer
      for (let d = 0; d < FEATURES; d++) along += df[d] * out.f[n * FEATURES + d];
      for (let d = 0; d < FEATURES; d++) {
        const dz = (df[d] - along * out.f[n * FEATURES + d]) / out.length[n];
        grad.b2[d] += dz;
        for (let j = 0; j < HIDDEN; j++) {
          grad.w2[d * HIDDEN + j] += dz * out.h[n * HIDDEN + j];
          dh[j] += dz * net.w2[d * HIDDEN + j];
        }
      }
      for (let j = 0; j < HIDDEN; j++) {
        const da = dh[j] * (1 - out.h[n * HIDDEN + j] ** 2);
        grad.b1[j] += da;
        grad.w1[2 * j] += da * out.x[2 * n];
        grad.w1[2 * j + 1] += da * out.x[2 * n + 1];
      }
    }
    for (let k = 0; k < PROTOTYPES; k++) {
      let along = 0;
      for (let d = 0; d < FEATURES; d++) along += dw[k * FEATURES + d] * out.w[k * FEATURES + d];
      for (let d = 0; d < FEATURES; d++) {
        const i = k * FEATURES + d;
        grad.v[i] += (dw[i] - along * out.w[i]) / out.vLength[k];
      }
    }
  }

  // Log-softmax of (logits − center) / temp over each row of K.
  function logSoftmax(logits, K, temp, center) {
    const out = new Float64Array(logits.length);
    for (let row = 0; row < logits.length; row += K) {
      let top = -Infinity, sum = 0;
      for (let k = 0; k < K; k++) {
        out[row + k] = (logits[row + k] - (center ? center[k] : 0)) / temp;
        top = Math.max(top, out[row + k]);
      }
      for (let k = 0; k < K; k++) sum += Math.exp(out[row + k] - top);
      for (let k = 0; k < K; k++) out[row + k] -= top + Math.log(sum);
    }
    return out;
  }

  // DINO's loss for two views: student, teacher (2, B, K), each teacher's view against the other
  // one of the student; with the gradient by both logits (the teacher's is used without
  // stop-gradient alone).
  function dinoLoss(student, teacher, K, { studentTemp, teacherTemp, center }) {
    const half = student.length / 2, B = half / K, scale = 1 / (2 * B);
    const logP = logSoftmax(student, K, studentTemp);
    const target = logSoftmax(teacher, K, teacherTemp, center).map(Math.exp);
    const dStudent = new Float64Array(student.length), dTeacher = new Float64Array(teacher.length);
    let loss = 0;
    for (let row = 0; row < student.length; row += K) {
      const other = (row + half) % student.length; // the same point's other view
      let cross = 0;
      for (let k = 0; k < K; k++) cross -= target[row + k] * logP[other + k];
      loss += scale * cross;
      for (let k = 0; k < K; k++) {
        const i = row + k, j = other + k;
        dStudent[j] = (scale / studentTemp) * (Math.exp(logP[j]) - target[i]);
        dTeacher[i] = (scale / teacherTemp) * target[i] * (-logP[j] - cross);
      }
    }
    return { loss, dStudent, dTeacher };
  }

  const DEFAULTS = {
    studentTemp: 0.1, teacherTemp: 0.04, centering: true, centerMomentum: 0.9,
    stopGradient: true, momentum: 0.98, learningRate: 0.01,
  };

  // What is changed, and the sentence that says what to see; a test holds each to its word.
  const PRESETS = {
    "Healthy": [{}, "Watch the gap between the two entropies: the loss first climbs towards ln K, then falls as the gap opens, and every cluster ends with prototypes of its own."],
    "No centering": [{ centering: false }, "Watch the bars: within 100 steps one prototype takes all points, and both entropies and the loss go to 0, the lowest loss of the four and the worst network."],
    "No sharpening": [{ teacherTemp: 0.1 }, "Watch the points pale: with the teacher as warm as the student, the loss and both entropies end at ln K, and every answer is the even one."],
    "Teacher = student": [{ stopGradient: false }, "Watch the two entropies move as one line: all points get the same answer, the center takes it away, and the loss swings far above ln K."],
  };

  function create(seed = 2) {
    const random = randomNumbers(seed * 7919 + 17);
    const { x, cluster } = makePoints(random);
    const student = makeNetwork(random);
    return {
      random, x, cluster, student, teacher: copy(student), center: new Float64Array(PROTOTYPES),
      step: 0, first: like(student), second: like(student), loss: NaN,
    };
  }

  // Two views of a batch of points: (2, B, 2), each point moved a little, twice.
  function drawViews(toy) {
    const views = new Float64Array(2 * BATCH * INPUTS);
    for (let n = 0; n < BATCH; n++) {
      const point = Math.floor(toy.random.uniform() * POINTS);
      for (let view = 0; view < 2; view++) for (let i = 0; i < 2; i++) {
        views[(view * BATCH + n) * 2 + i] = toy.x[2 * point + i] + NOISE * toy.random.normal();
      }
    }
    return views;
  }

  // Adam (Kingma and Ba, algorithm 1) with β = (0.9, 0.99).
  function adam(toy, grad, learningRate) {
    const t = toy.step + 1, c1 = 1 - 0.9 ** t, c2 = 1 - 0.99 ** t;
    for (const name of Object.keys(grad)) {
      const g = grad[name], m = toy.first[name], s = toy.second[name], w = toy.student[name];
      for (let i = 0; i < g.length; i++) {
        m[i] += 0.1 * (g[i] - m[i]);
        s[i] += 0.01 * (g[i] * g[i] - s[i]);
        w[i] -= (learningRate * (m[i] / c1)) / (Math.sqrt(s[i] / c2) + 1e-8);
      }
    }
  }

  // One step in the order of the paper's algorithm 1: loss, gradient, student, center, teacher.
  function step(toy, options, views = drawViews(toy)) {
    const out = forward(toy.student, views);
    const teacherOut = options.stopGradient ? forward(toy.teacher, views) : out;
    const center = options.centering ? toy.center : null;
    const { loss, dStudent, dTeacher } = dinoLoss(out.logits, teacherOut.logits, PROTOTYPES, { ...options, center });
    const grad = like(toy.student);
    backward(toy.student, out, dStudent, grad);
    if (!options.stopGradient) backward(toy.student, out, dTeacher, grad);
    adam(toy, grad, options.learningRate);
    const rows = 2 * BATCH;
    for (let k = 0; k < PROTOTYPES; k++) {
      let mean = 0;
      for (let n = 0; n < rows; n++) mean += teacherOut.logits[n * PROTOTYPES + k] / rows;
      toy.center[k] += (1 - options.centerMomentum) * (mean - toy.center[k]);
    }
    const keep = options.stopGradient ? options.momentum : 0;
    for (const name of Object.keys(toy.teacher)) {
      const t = toy.teacher[name], s = toy.student[name];
      for (let i = 0; i < t.length; i++) t[i] = keep * t[i] + (1 - keep) * s[i];
    }
    toy.step += 1;
    toy.loss = loss;
    return loss;
  }

  // The teacher's answers (N, K) to any places (N, 2).
  function answers(toy, x, options) {
    const center = options.centering ? toy.center : null;
    return logSoftmax(forward(toy.teacher, x).logits, PROTOTYPES, options.teacherTemp, center).map(Math.exp);
  }

  const entropy = (p) => p.reduce((sum, q) => (q > 0 ? sum - q * Math.log(q) : sum), 0);

  // Teacher entropy, entropy of the mean answer, and purity: guess the cluster that is commonest
  // under a prototype drawn from a point's answer; how often is it right?
  function measure(toy, options) {
    const p = answers(toy, toy.x, options), K = PROTOTYPES;
    const mean = new Float64Array(K), mass = new Float64Array(K * CLUSTERS);
    let teacherEntropy = 0;
    for (let n = 0; n < POINTS; n++) {
      const row = p.subarray(n * K, n * K + K);
      teacherEntropy += entropy(row) / POINTS;
      for (let k = 0; k < K; k++) {
        mean[k] += row[k] / POINTS;
        mass[k * CLUSTERS + toy.cluster[n]] += row[k] / POINTS;
      }
    }
    let purity = 0;
    for (let k = 0; k < K; k++) purity += Math.max(...mass.subarray(k * CLUSTERS, (k + 1) * CLUSTERS));
    return { step: toy.step, loss: toy.loss, teacherEntropy, batchEntropy: entropy(mean), purity, answers: p };
  }

  // What the measured numbers mean, in one sentence.
  function diagnose(m) {
    const gap = m.batchEntropy - m.teacherEntropy;
    if (m.step === 0) return "Nothing is trained yet: all points get nearly the same answer.";
    if (gap < 0.03 && m.teacherEntropy > LN_K - 0.03 && m.loss < LN_K + 0.1) return "Uniform collapse: every answer is the even one, and the loss is ln K.";
    if (gap < 0.03 && m.batchEntropy < 0.1 && m.loss < 0.1) return "Collapse onto one prototype: every point gets the same answer.";
    if (gap < 0.03) return "Collapse: every point gets the same answer.";
    if (m.purity > 0.95) return "Learned: the prototypes tell the clusters apart.";
    if (gap > 1 && m.teacherEntropy < 0.1) return "Learned in part: the answers are sure, but some clusters share a prototype.";
    return "Under way: the answers tell a little about the points.";
  }

  return {
    PROTOTYPES, CLUSTERS, POINTS, LN_K, DEFAULTS, PRESETS, diagnose,
    create, drawViews, step, measure, answers, forward, backward, dinoLoss, like,
  };
})();
if (typeof module === "object") module.exports = CollapseToy;
