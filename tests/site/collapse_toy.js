// What test_collapse_toy.py asks of collapse-toy.js, which is run before this.
"use strict";
const plain = (net) => Object.fromEntries(Object.entries(net).map(([name, a]) => [name, [...a]]));

// Weights before and after three steps, and the views and losses of each.
function threeSteps() {
  const T = CollapseToy, toy = T.create();
  const before = plain(toy.student), views = [0, 1, 2].map(() => T.drawViews(toy));
  const losses = views.map((v) => T.step(toy, T.DEFAULTS, v));
  return {
    options: T.DEFAULTS, before, views: views.map((v) => [...v]), losses,
    student: plain(toy.student), teacher: plain(toy.teacher), center: [...toy.center],
  };
}

// The gradient of one loss by the student's weights, with a center that is not zero.
function gradient(stopGradient) {
  const T = CollapseToy, toy = T.create(7), views = T.drawViews(toy), grad = T.like(toy.student);
  const center = Float64Array.from({ length: T.PROTOTYPES }, (_, k) => 0.1 * Math.sin(k));
  const out = T.forward(toy.student, views);
  const teacher = stopGradient ? T.forward(T.create(8).student, views) : out;
  const options = { studentTemp: 0.1, teacherTemp: 0.05, center };
  const { loss, dStudent, dTeacher } = T.dinoLoss(out.logits, teacher.logits, T.PROTOTYPES, options);
  T.backward(toy.student, out, dStudent, grad);
  if (!stopGradient) T.backward(toy.student, out, dTeacher, grad);
  return {
    views: [...views], center: [...center], loss, teacher: [...teacher.logits],
    net: plain(toy.student), grad: plain(grad),
  };
}

// Where each preset ends, with the highest loss and the widest gap between entropies on the way.
function ends(steps) {
  const T = CollapseToy, found = {};
  for (const [name, [changes]] of Object.entries(T.PRESETS)) {
    const toy = T.create(), options = { ...T.DEFAULTS, ...changes }, rows = [];
    while (toy.step < steps) {
      T.step(toy, options);
      if (toy.step % 10 === 0) rows.push({ ...T.measure(toy, options), answers: null });
    }
    const last = rows[rows.length - 1];
    found[name] = {
      ...last, diagnosis: T.diagnose(last), at100: rows[9].batchEntropy,
      highest: Math.max(...rows.map((row) => row.loss)),
      gap: Math.max(...rows.map((row) => row.batchEntropy - row.teacherEntropy)),
    };
  }
  return found;
}
