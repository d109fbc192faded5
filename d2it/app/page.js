// The page of `d2it app`: one state, kept over reloads of this window; every change draws anew.
const $ = (id) => document.getElementById(id);
const COARSE = [30, 70, 220], FINE = [220, 30, 30]; // as d2it/grains/overlay.py
const LARGEST = 2 ** 25; // bytes of a photograph, as d2it/app/server.py

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : { method: "POST", body });
  } catch {
    throw new Error("There is no answer: is `d2it app` still running?");
  }
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

const facts = await ask("facts");
const KEY = JSON.stringify(facts); // another folder here is another page
const every = (grain) => Array.from({ length: facts.side }, () => Array(facts.side).fill(grain));
const complement = (map) => map.map((row) => row.map((grain) => facts.grains - 1 - grain));
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

const state = {
  map: null, // the network's
  previous: null,
  label: facts.classes[0] ?? null,
  seed: 0,
  steps: facts.steps,
  guidance: facts.guidance,
  ratio: facts.ratio,
  other: "complement",
  brush: facts.grains - 1,
  ...JSON.parse(sessionStorage.getItem(KEY) ?? "{}"),
};
let shown = every(0); // the map of the image that is seen
let beside = null; // the other one

// ---- drawing: one request at a time, the newest state next
let running = false, stale = false;

async function refresh() {
  sessionStorage.setItem(KEY, JSON.stringify(state));
  showSettings();
  stale = true;
  if (running) return;
  running = true;
  document.body.setAttribute("aria-busy", "true");
  while (stale) {
    stale = false;
    say("Drawing …");
    try {
      await drawBoth();
    } catch (error) {
      say(error.message, true);
    }
  }
  running = false;
  document.body.setAttribute("aria-busy", "false");
}

function request(map) {
  const { label, seed, steps, guidance } = state;
  const ratio = map === null && facts.elastic ? state.ratio : null;
  return JSON.stringify({ seed, label, map, ratio, steps, guidance });
}

async function drawBoth() {
  const drawn = await ask("draw", request(state.map));
  if (stale) return; // another state by now
  const map = drawn.maps[state.seed - drawn.first];
  if (!same(map, shown) && $("command").textContent) state.previous = shown;
  shown = map;
  showDrawn(drawn);
  if (facts.paints) {
    const maps = { previous: state.previous, network: null, coarse: every(0) };
    maps.fine = every(facts.grains - 1);
    const other = maps[state.other] === undefined ? complement(shown) : maps[state.other];
    if (state.other === "previous" && !other) beside = null;
    else showBeside(await ask("draw", request(other)));
  }
  sessionStorage.setItem(KEY, JSON.stringify(state));
  say("");
}

// ---- showing
function say(sentence, wrong = false) {
  $("told").textContent = sentence;
  $("told").classList.toggle("wrong", wrong);
}

function colour(grain) {
  const share = grain / (facts.grains - 1);
  return FINE.map((fine, i) => Math.round(share * fine + (1 - share) * COARSE[i]));
}

function showMap(canvas, map) {
  canvas.width = canvas.height = facts.side;
  const pixels = new ImageData(facts.side, facts.side);
  map.flat().forEach((grain, i) => pixels.data.set([...colour(grain), 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const source = (image) => `data:image/png;base64,${image}`;

function showFigure(figure, drawn, i) {
  figure.querySelector("img").src = source(drawn.images[i]);
  const lines = {
    Codes: `${drawn.codes[i]} of ${drawn.most_codes}`,
    GMACs: `${drawn.gmacs[i].toPrecision(3)} a pass, ${drawn.passes} passes`,
    Time: `${drawn.milliseconds} ms for ${drawn.block} images`,
  };
  if (!facts.paints) delete lines.Codes;
  const entries = Object.entries(lines).flatMap(([name, value]) =>
    [["dt", name], ["dd", value]].map(([tag, text]) =>
      Object.assign(document.createElement(tag), { textContent: text })));
  figure.querySelector("dl").replaceChildren(...entries);
}

function showDrawn(drawn) {
  const i = state.seed - drawn.first;
  showFigure($("drawn"), drawn, i);
  $("board").querySelector("img").src = source(drawn.images[i]);
  showMap($("board").querySelector("canvas"), state.map ?? shown);
  $("seeds").replaceChildren(...drawn.images.map((image, j) => {
    const button = document.createElement("button");
    button.title = `Seed ${drawn.first + j}`;
    button.setAttribute("aria-current", String(i === j));
    button.append(Object.assign(new Image(), { src: source(image), alt: button.title }));
    button.onclick = () => change({ seed: drawn.first + j });
    return button;
  }));
  $("other").querySelector("[value=previous]").disabled = !state.previous;
  for (const name of ["command", "python"]) $(name).textContent = drawn[name];
}

function showBeside(drawn) {
  const i = state.seed - drawn.first;
  beside = drawn.maps[i];
  showFigure($("beside"), drawn, i);
  showMap($("beside").querySelector("canvas"), beside);
}

function showSettings() {
  for (const name of ["label", "seed", "steps", "guidance", "other"]) {
    $(name).value = state[name] ?? "";
  }
  [state.ratio].flat().forEach((share, i) => {
    const input = $("ratio").querySelectorAll("input")[i];
    if (input) input.nextElementSibling.value = input.value = share;
  });
}

// ---- changing
function change(changes) {
  Object.assign(state, changes);
  refresh();
}

for (const name of ["seed", "steps", "guidance"]) {
  $(name).onchange = () => {
    if ($(name).reportValidity()) change({ [name]: $(name).valueAsNumber });
  };
}
$("settings").onsubmit = (event) => event.preventDefault();
$("label").onchange = () => change({ label: $("label").value || null });
$("other").onchange = () => change({ other: $("other").value });
$("another").onclick = () => change({ seed: state.seed + 1 });
$("network").onclick = () => change({ map: null });
$("coarse").onclick = () => change({ map: every(0) });
$("fine").onclick = () => change({ map: every(facts.grains - 1) });
$("complement").onclick = () => change({ map: complement(state.map ?? shown) });
$("use").onclick = () => beside && change({ map: beside });

$("photograph").onchange = async ({ target }) => {
  const [file] = target.files;
  target.value = ""; // the same file may be chosen again
  if (!file) return;
  const ratio = facts.elastic ? `?ratio=${state.ratio}` : "";
  try {
    if (file.size > LARGEST) throw new Error("The file is larger than 32 MiB: choose another.");
    say("Reading the photograph …");
    change(await ask(`photograph${ratio}`, file));
  } catch (error) {
    say(error.message, true);
  }
};

function changeRatio(changed) { // the others give way, so that all shares are at most 1 together
  const inputs = [...$("ratio").querySelectorAll("input")];
  let left = 1 - changed.valueAsNumber;
  for (const input of inputs.filter((one) => one !== changed)) {
    input.value = Math.min(input.valueAsNumber, left);
    left -= input.valueAsNumber;
  }
  const shares = inputs.map((input) => input.valueAsNumber);
  change({ ratio: facts.grains === 2 ? shares[0] : shares, map: null });
}

for (const button of document.querySelectorAll("[data-copies]")) {
  button.onclick = async () => {
    const text = $(button.dataset.copies);
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch { // not from another machine: the text is selected
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  };
}

// ---- painting
const board = $("board");
let cursor = [0, 0], painted = false;

function paint(row, column) {
  if (!(row in shown && column in shown)) return;
  state.map ??= shown.map((one) => [...one]);
  if (state.map[row][column] === state.brush) return;
  state.map[row][column] = state.brush;
  painted = true;
  showMap(board.querySelector("canvas"), state.map);
}

function paintAt(event) {
  const box = board.getBoundingClientRect();
  const between = event.getCoalescedEvents?.() ?? [];
  for (const { clientX, clientY } of [...between, event]) {
    const place = [(clientY - box.top) / box.height, (clientX - box.left) / box.width];
    paint(...place.map((share) => Math.floor(share * facts.side)));
  }
}

function painting() { // what is painted is drawn when the mouse is lifted
  if (painted) refresh();
  painted = false;
}

board.onpointerdown = (event) => {
  if (event.button) return;
  board.setPointerCapture(event.pointerId);
  paintAt(event);
};
board.onpointermove = (event) => board.hasPointerCapture(event.pointerId) && paintAt(event);
board.onpointerup = board.onpointercancel = painting;
board.onkeydown = (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[event.key];
  if (step) cursor = cursor.map((at, i) => Math.min(facts.side - 1, Math.max(0, at + step[i])));
  else if (event.key === " ") paint(...cursor), painting();
  else return;
  say(`Row ${cursor[0] + 1}, column ${cursor[1] + 1}`);
  event.preventDefault();
};

// ---- what this folder can do
function build() {
  $("folder").textContent = facts.folder;
  $("label").append(new Option("all in turn", ""), ...facts.classes.map((name) => new Option(name)));
  $("steps").max = facts.most_steps;
  board.style.setProperty("--side", facts.side);
  for (const name of ["label", "guidance"]) $(name).parentElement.hidden = !facts.classes.length;
  for (const id of ["painting", "beside"]) $(id).hidden = !facts.paints;
  if (facts.elastic) {
    const names = [facts.ratio].flat().map((_, i, all) =>
      i === all.length - 1 ? "Share of fine regions" : `Share of grain ${i + 1}`);
    $("ratio").append(...names.map((name) => {
      const label = Object.assign(document.createElement("label"), { textContent: `${name} ` });
      const input = Object.assign(document.createElement("input"),
        { type: "range", min: 0, max: 1, step: 0.05 });
      input.onchange = () => changeRatio(input);
      label.append(input, document.createElement("output"));
      return label;
    }));
  }
  $("brushes").append(...Array.from({ length: facts.grains }, (_, grain) => {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"),
      { type: "radio", name: "brush", checked: grain === state.brush });
    radio.onchange = () => (state.brush = grain);
    const sample = document.createElement("i");
    sample.style.background = `rgb(${colour(grain)})`;
    const name = grain === 0 ? "coarse" : grain === facts.grains - 1 ? "fine" : `grain ${grain}`;
    label.append(radio, sample, name);
    return label;
  }));
}

build();
refresh();
