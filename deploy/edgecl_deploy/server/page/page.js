// The page of a device: what it sees, what it answers, what it is taught, what runs.

import * as api from "./api.js";
import { Camera, picture, possible } from "./camera.js";

const PERIOD = 250; // milliseconds from one request for an answer to the next, at least
const LOOK = 5000; // milliseconds between two looks at what runs
const SHOTS = 5;
const BETWEEN = 800; // milliseconds between two shots, to turn the object
const STEADY = 3; // equal answers until they are read out
const FEW = 3; // classes of a set that are named
const MANY = 20; // pictures that one enrolment takes

const at = (id) => document.getElementById(id);
const pause = (time) => new Promise((done) => setTimeout(done, time));
const number = (value) => (value === null ? "" : value.toFixed(value < 0.01 ? 4 : 2));

function made(tag, text = "", more = {}) {
  const node = Object.assign(document.createElement(tag), more);
  node.textContent = text;
  return node;
}

const camera = new Camera(at("video"));
let names = null; // outputs of the release that answers
let release = null; // its number
let may = {}; // what the status said last
let still = null; // a picture that was chosen, instead of the camera
let taking = false;

// -- trouble ------------------------------------------------------------------------------------

function tell(error) {
  at("trouble").textContent = error.message;
  at("trouble").hidden = false;
  if (error.status === 401) at("token").hidden = false;
  if (error.status === 0) at("serving").dataset.live = "no";
  if (error.status === 400 || error.status === 404) names = null; // another release has others
}

function well() {
  at("trouble").hidden = true;
  at("token").hidden = true;
  at("serving").dataset.live = "yes";
}

at("token").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken(at("token-text").value.trim());
  at("token-text").value = "";
  refresh();
});

let fading = 0;

function toast(text) {
  at("toast").textContent = text;
  at("toast").classList.add("on");
  clearTimeout(fading);
  fading = setTimeout(() => at("toast").classList.remove("on"), 6000);
}

// -- what runs ----------------------------------------------------------------------------------

function seen(version) {
  const now = Number(version.split(".")[0]);
  if (at("release").textContent !== `release ${version}`) {
    at("release").textContent = `release ${version}`;
    names = null;
    if (release !== null) refresh();
  }
  if (release !== null && release !== now) toast(`Release ${now} answers now, in place of ${release}.`);
  release = now;
}

function facts(entries) {
  at("facts").replaceChildren(...entries.filter(([, value]) => value !== null).flatMap(([name, value, alarm]) => [
    made("dt", name),
    made("dd", String(value), { className: alarm ? "alarm" : "" }),
  ]));
}

const DRIFT = { "": "none seen", camera: "the camera has changed", world: "what it sees has changed", model: "since what runs has changed" };

async function refresh() {
  try {
    may = await api.status();
    const own = await api.enrolled();
    well();
    seen(own.version);
    list(own);
    facts([
      ["release", may.release],
      ["program", may.program],
      ["classes", may.classes],
      ["precision", may.fallback ? `${may.precision}, not what was asked for` : may.precision],
      ["images answered", may.images],
      ["of them failed", may.failed || null],
      ["drift", DRIFT[may.drift] ?? null, Boolean(may.drift)],
    ]);
    teachable();
    const why = may.drift ? await api.drift() : { reasons: [], advice: [] };
    at("why").replaceChildren(...[...why.reasons, ...why.advice].map((each) => made("li", each)));
  } catch (error) {
    tell(error);
  }
}

async function follow() {
  for (;;) {
    try {
      for await (const event of api.events()) if (event.event === "swap" || event.event === "drift") refresh();
    } catch { /* the next look tells of it */ }
    await pause(LOOK);
  }
}

// -- classes of this device ---------------------------------------------------------------------

let listed = ""; // what the list shows

function list({ enrolled, hidden }) {
  const now = JSON.stringify([enrolled, hidden, may.rights]);
  if (now === listed || at("own").contains(document.activeElement)) return; // nothing new, or somebody decides
  listed = now;
  const rows = enrolled.map((each) => row(each.name, `${each.images} pictures`, each));
  rows.push(...hidden.map((name) => row(name, "hidden, not erased", null)));
  at("own").replaceChildren(...rows);
  at("own-none").hidden = rows.length > 0;
  at("own-count").textContent = rows.length || "";
}

function row(name, about, entry) {
  const item = made("li");
  const text = made("div");
  const rest = entry && entry.state !== "active" ? `${entry.state}: ${entry.reason}` : about;
  text.append(made("strong", name), made("span", rest, { className: "quiet" }));
  item.append(text);
  if (entry && may.rights !== "read") item.append(remover(name));
  return item;
}

function remover(name) {
  const button = made("button", "Remove", { type: "button", ariaLabel: `Remove ${name}` });
  const calm = () => {
    button.classList.remove("sure");
    button.textContent = "Remove";
    button.ariaLabel = `Remove ${name}`;
  };
  button.addEventListener("blur", calm);
  button.addEventListener("click", async () => {
    if (!button.classList.contains("sure")) {
      button.classList.add("sure");
      button.textContent = "Really?";
      button.ariaLabel = `Really remove ${name}?`;
      return;
    }
    button.disabled = true;
    try {
      await api.remove(name);
      at("own-head").focus();
      toast(`${name} is removed.`);
    } catch (error) {
      tell(error);
      button.disabled = false;
    }
    refresh();
  });
  return button;
}

// -- answers ------------------------------------------------------------------------------------

let last = "";
let steady = 0;

function said(text) {
  steady = text === last ? steady + 1 : 1;
  last = text;
  if (steady === (still ? 1 : STEADY) && at("said").textContent !== text) at("said").textContent = text;
}

function badge(text) {
  at("badge").textContent = text;
  at("badge").hidden = !text;
}

function sense({ top, known, p, set, basis }) {
  const parts = [];
  if (known === false) parts.push(`closest is ${top[0].label}`);
  if (p !== null) parts.push(`p ${number(p)}`);
  const others = (set ?? []).filter((label) => label !== top[0].label);
  const more = others.length > FEW ? ` and ${others.length - FEW} more` : "";
  if (others.length) parts.push(`could also be ${others.slice(0, FEW).join(", ")}${more}`);
  if (p !== null && basis && basis !== "class") parts.push("judged with few pictures of it");
  if (known === null) parts.push("this release always names its best class");
  return parts.join(" · ");
}

function show(answer) {
  const unknown = answer.known === false;
  const label = unknown ? "Unknown" : answer.top[0].label;
  at("answer").dataset.state = unknown ? "unknown" : "known";
  at("label").textContent = label;
  badge(answer.local && !unknown ? "of this device" : "");
  at("sense").textContent = sense(answer);
  const scores = answer.top.map((each) => each.score);
  const low = Math.min(0, ...scores);
  const span = Math.max(...scores, 1e-9, Math.abs(low)) - low;
  const inside = new Set(answer.set ?? (unknown ? [] : [answer.top[0].label]));
  bars(answer.top.length);
  answer.top.forEach((each, i) => {
    const item = at("top").children[i];
    const [name, track, score] = item.children;
    item.classList.toggle("in", inside.has(each.label));
    name.textContent = name.title = each.label;
    track.firstChild.style.width = `${(100 * (each.score - low)) / span}%`;
    score.textContent = each.score.toFixed(3);
  });
  said(unknown ? `Unknown, closest is ${answer.top[0].label}` : label);
  seen(answer.version);
}

function bars(count) {
  const list = at("top");
  while (list.children.length > count) list.lastChild.remove();
  while (list.children.length < count) {
    const item = made("li");
    const track = made("span", "", { ariaHidden: "true" });
    track.append(made("i"));
    item.append(made("b"), track, made("data"));
    list.append(item);
  }
}

async function ask(image, chosen = null) {
  names ??= await api.outputs();
  const begun = performance.now();
  const answer = await api.infer(image, names);
  const took = performance.now() - begun;
  if (still !== chosen) return; // something else is looked at by now
  well();
  show(answer);
  at("speed").textContent = `${took.toFixed(0)} ms`;
}

async function watch() {
  for (;;) {
    const begun = performance.now();
    let wait = PERIOD;
    if (camera.runs && !still && !document.hidden) {
      try {
        await ask(await camera.frame());
      } catch (error) {
        tell(error);
        wait = error.wait ?? 2000;
      }
    }
    await pause(Math.max(30, wait - (performance.now() - begun)));
  }
}

// -- camera and files ---------------------------------------------------------------------------

function idle(text) {
  at("idle").textContent = text;
  at("idle").hidden = camera.runs || Boolean(still);
  at("video").hidden = !camera.video.srcObject || Boolean(still);
  at("still").hidden = !still;
  at("camera").textContent = camera.video.srcObject ? "Stop camera" : "Start camera";
  at("camera").classList.toggle("first", !camera.video.srcObject);
  teachable();
}

const INSECURE = "A browser gives its camera only to a page that came by https, or from the device itself. Pictures from files work here too.";
const READY = "The camera is off. Its pictures go to this device and nowhere else.";

async function start(id) {
  still = null;
  try {
    await camera.start(id);
    const all = await camera.others();
    at("cameras").replaceChildren(...all.map((each, i) => made("option", each.label || `Camera ${i + 1}`, { value: each.deviceId })));
    at("cameras").value = camera.id;
    at("cameras").hidden = all.length < 2;
    idle(READY);
  } catch (error) {
    camera.stop();
    idle(error.name === "NotAllowedError"
      ? "The browser was told not to give the camera to this page. Allow it in the browser, or choose a picture."
      : "No camera was found. Choose a picture instead.");
  }
}

at("camera").addEventListener("click", () => {
  if (!camera.video.srcObject) return start();
  camera.stop();
  return idle(READY);
});
at("cameras").addEventListener("change", () => start(at("cameras").value));
at("file").addEventListener("change", async () => {
  const [file] = at("file").files;
  at("file").value = "";
  if (!file) return;
  camera.stop();
  URL.revokeObjectURL(at("still").src);
  still = await picture(file).catch(() => file);
  at("still").src = URL.createObjectURL(still);
  idle(READY);
  try {
    await ask(still, still);
  } catch (error) {
    tell(error);
  }
});

// -- teaching -----------------------------------------------------------------------------------

function teachable() {
  const way = may.enrolment === "mean" || may.enrolment === "ridge";
  const able = way && may.rights !== "read";
  at("show").disabled = taking || !able || !camera.runs;
  at("name").disabled = at("files").disabled = taking || !able;
  if (taking || !may.rights) return;
  if (!way) learned(may.enrolment === "text"
    ? "The program of this release knows classes by their names; it takes none from pictures."
    : "The program of this release takes no class on a device, or there is no place for one.");
  else if (!able) learned("This token may look, but not teach.");
  else if (!at("taught").dataset.done) learned("");
}

function learned(text, wrong = false, done = "") {
  at("taught").textContent = text;
  at("taught").classList.toggle("wrong", wrong);
  at("taught").dataset.done = done;
}

function empty(count) {
  for (const shot of at("shots").querySelectorAll("img")) URL.revokeObjectURL(shot.src);
  at("shots").replaceChildren(...Array.from({ length: count }, () => made("li")));
  at("warnings").replaceChildren();
}

function place(i, file) {
  at("shots").children[i].append(made("img", "", { src: URL.createObjectURL(file), alt: `Picture ${i + 1}` }));
}

async function shots() {
  const files = [];
  empty(SHOTS);
  while (files.length < SHOTS) {
    if (files.length) await pause(BETWEEN);
    if (!camera.runs) throw new Error("The camera stopped. Nothing was learned.");
    files.push(await camera.frame());
    place(files.length - 1, files.at(-1));
    learned(`Picture ${files.length} of ${SHOTS}. Turn it a little.`);
    at("flash").classList.remove("on");
    void at("flash").offsetWidth; // begin the animation anew
    at("flash").classList.add("on");
  }
  return files;
}

async function teach(take) {
  const name = at("name").value.trim();
  if (!name) return at("name").reportValidity();
  taking = true;
  teachable();
  try {
    const files = await take();
    learned("Learning…");
    report(await api.enrol(name, files));
    at("name").value = "";
  } catch (error) {
    learned(error.message, true, "yes");
    if (error.status === 401) tell(error);
  } finally {
    taking = false;
  }
  await refresh();
  if (still) ask(still, still).catch(tell);
}

function report(found) {
  const skipped = new Set(found.skipped.map(([place]) => place));
  const judged = found.loo.values();
  for (const [i, item] of [...at("shots").children].entries()) {
    const won = skipped.has(i) ? false : judged.next().value;
    if (won === null || won === undefined) continue;
    item.append(made("small", won ? "✓" : "!", { className: won ? "" : "no", ariaLabel: won ? "recognised" : "not recognised" }));
  }
  const lost = found.loo.filter((each) => each === false).length;
  const how = lost ? `${found.loo.length - lost} of ${found.loo.length} recognised by the others.` : "Each is recognised by the others.";
  learned(`${found.name} is learned from ${found.images} pictures. ${found.images > 1 ? how : ""}`, false, "yes");
  at("warnings").replaceChildren(...found.warnings.map((each) => made("li", each)));
}

at("teach").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!at("show").disabled) teach(shots);
});
at("files").addEventListener("change", () => {
  const files = [...at("files").files].slice(0, MANY);
  at("files").value = "";
  if (!files.length) return;
  teach(async () => {
    empty(files.length);
    const smaller = await Promise.all(files.map((each) => picture(each).catch(() => each)));
    smaller.forEach((each, i) => place(i, each));
    return smaller;
  });
});

// -- begin --------------------------------------------------------------------------------------

at("camera").hidden = !possible;
idle(possible ? READY : INSECURE);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || refresh(), LOOK);
refresh();
follow();
watch();
