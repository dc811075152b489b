// Asks the node for its state once a second and shows it. Text from peers is only ever set as text.

const POLL_MS = 1000;
const PATIENCE_MS = 4000;
const HISTORY_PATIENCE_MS = 15000;
const POINTS_MAX = 3000;
const ROWS = 24;
const RECENT = 64;
const VOID = -128;
const PHASES = { catching_up: 'catching up', training: 'training', serving: 'serving', paused: 'paused', left: 'left' };
const CAUSES = [['gossip, new', 'received_gossip'], ['gossip, again', 'received_duplicates'],
  ['questions and answers', 'received_exchange'], ['upkeep', 'received_upkeep']];
// With fewer gradients, bytes per gradient say nothing but what connections cost.
const PER_GRADIENTS_MIN = 100;
const OVER = { gradients: ['count', 'gradients of the swarm'], time: ['time', 'time'], bytes: ['bytes', 'bytes received here'] };

const by = id => document.getElementById(id);
const state = { points: [], before: 0, snapshot: null, uptime: 0, lost: null, starting: false, changed: Date.now(), time: 0, all: false, over: 'gradients' };

function made(name, style, text) {
  const element = document.createElement(name);
  if (style) element.className = style;
  if (text !== undefined) element.textContent = text;
  return element;
}

const decimals = (value, digits) =>
  value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
const whole = value => decimals(value, 0);

/** Three or four digits that matter. */
function figure(value) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  return decimals(value, size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3);
}

function rate(value) {
  return value === 0 ? '0' : decimals(value, value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

function shortCount(value) {
  const [unit, letter] = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k'], [1, '']].find(([unit]) => Math.abs(value) >= unit) ?? [1, ''];
  return `${Number((value / unit).toPrecision(4)).toLocaleString('en')}${letter}`;
}

function size(bytes) {
  const [unit, name] = [[1e9, 'GB'], [1e6, 'MB'], [1e3, 'kB'], [1, 'B']].find(([unit]) => bytes >= unit) ?? [1, 'B'];
  return `${Number((bytes / unit).toPrecision(3)).toLocaleString('en')} ${name}`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}

const short = (text, letters) => text.length > letters ? `${text.slice(0, letters)}…` : text;
/** Of a machine's name in full, what people are shown (protocol/src/machine.rs). */
const shortName = name => name.replace(/^([0-9a-f]{12}\.[0-9a-f]{4})[0-9a-f]{12}$/, '$1');
/** Colours of the style sheet, for canvases. */
function coloursNow() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(['ink', 'cell', 'blue', 'orange'].map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
}
let colours = coloursNow();

// Curves.

const charts = [
  ['held-out text, bits per byte', [{ name: 'held-out', colour: 'blue', dots: true }], false, figure],
  ['training loss, nats per token', [{ name: 'training', colour: 'orange' }], false, figure],
  ['gradients per second', [{ name: 'swarm', colour: 'blue' }, { name: 'own', colour: 'orange', dashed: true }], true, rate],
  ['staleness, gradients', [{ name: 'staleness', colour: 'green' }], true, whole],
].map(([title, series, zero, format]) => new Chart(by('charts'), { title, series, zero, format, over: '' }));
charts.forEach(chart => { chart.together = charts; });

const places = {
  gradients: point => point.gradients,
  time: point => point.time_ms,
  bytes: point => point.received,
};

/** What a look at the held-out text may show, and what the loss is then; a look has one of them. */
const MEASURES = [
  { field: 'score', unit: 'mean score', loss: 'minus the score' },
  { field: 'accuracy', unit: 'accuracy', loss: 'nats per row' },
  { field: 'bits_per_byte', unit: 'bits per byte', loss: 'nats per token' },
];
const measureOf = look => MEASURES.find(({ field }) => (look?.[field] ?? null) !== null) ?? MEASURES.at(-1);

function drawCurves() {
  const place = places[state.over];
  const line = read => state.points.map(point => [place(point), read(point)]).filter(point => point[1] !== null);
  // Lines that an older release wrote have fewer fields.
  const has = name => state.points.some(point => (point[name] ?? null) !== null);
  const measure = MEASURES.find(({ field }) => has(`held_out_${field}`)) ?? MEASURES.at(-1);
  const held_out = point => point[`held_out_${measure.field}`] ?? null;
  charts[0].rename(`held-out text, ${measure.unit}`);
  const looks = state.points.filter((point, at) => held_out(point) !== null &&
    point.held_out_gradients !== state.points[at - 1]?.held_out_gradients);
  const when = point => state.over === 'gradients' ? point.held_out_gradients : place(point);
  const lines = [
    [looks.map(point => [when(point), held_out(point)])],
    [line(point => point.training_loss)],
    [line(point => point.swarm_per_second), line(point => point.own_per_second)],
    [line(point => point.staleness)],
  ];
  const [axis, over] = OVER[state.over];
  const all = lines.flat(2).map(([x]) => x);
  const range = all.length === 0 ? null
    : [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  charts.forEach((chart, number) => {
    chart.over = over;
    chart.show(lines[number], axis, range);
  });
}

function pointOf(snapshot) {
  return {
    time_ms: snapshot.time_ms, gradients: snapshot.swarm.total, training_loss: snapshot.training_loss,
    held_out_bits_per_byte: snapshot.held_out?.bits_per_byte ?? null,
    held_out_accuracy: snapshot.held_out?.accuracy ?? null,
    held_out_score: snapshot.held_out?.score ?? null,
    held_out_gradients: snapshot.held_out?.gradients ?? null,
    own_per_second: snapshot.own.per_second, swarm_per_second: snapshot.swarm.per_second,
    received: state.before + snapshot.traffic.received, staleness: snapshot.staleness,
  };
}

// Figures.

function drawAbout(snapshot) {
  const phase = by('phase');
  const why = snapshot.paused_because ? ` (${snapshot.paused_because})` : '';
  phase.textContent = (PHASES[snapshot.phase] ?? snapshot.phase) + why;
  phase.className = `phase ${PHASES[snapshot.phase] ? snapshot.phase : ''}`;
  const entries = [
    ['run', short(snapshot.run, 16), snapshot.run], ['model', snapshot.model],
    ['parameters', whole(snapshot.parameters)], ['this machine', shortName(snapshot.machine), snapshot.machine],
    ['vector', short(snapshot.vector, 16), snapshot.vector], ['up', span(snapshot.uptime_seconds)],
  ];
  const monospaced = ['run', 'this machine', 'vector'];
  by('about').replaceChildren(...entries.filter(entry => entry[1]).map(([name, value, title]) => {
    const entry = made('div');
    entry.append(made('dt', '', name), made('dd', monospaced.includes(name) ? 'mono' : '', value));
    if (title) entry.title = title;
    return entry;
  }));
}

function drawKeys(snapshot) {
  const { held_out: look, swarm, own, traffic } = snapshot;
  const per = bytes => swarm.session >= PER_GRADIENTS_MIN ? figure(bytes / swarm.session) : '–';
  const share = swarm.total > 0 ? ` (${decimals(100 * own.total / swarm.total, 0)}%)` : '';
  const peers = snapshot.peers.length;
  const measure = measureOf(look);
  const entries = [
    [`held-out, ${measure.unit}`, figure(look?.[measure.field]), look ? `after ${whole(look.gradients)} gradients` : 'not looked at yet'],
    [`training loss, ${measure.loss}`, figure(snapshot.training_loss), look ? `held-out ${figure(look.loss)}` : ''],
    ['gradients', whole(swarm.total), `own ${whole(own.total)}${share}`],
    ['gradients per second', rate(swarm.per_second), `own ${rate(own.per_second)}${day(snapshot.load)}`],
    ['bytes received per gradient', per(traffic.received), `sent ${per(traffic.sent)}`],
    ['staleness, gradients', snapshot.staleness === null ? '–' : whole(snapshot.staleness),
      snapshot.waiting > 0 ? `${whole(snapshot.waiting)} wait to be replayed${behind(snapshot.load)}` : 'none wait to be replayed'],
    ['machines', whole(snapshot.machine_count), snapshot.machine_count === 1 ? 'only this one' : 'in the run so far'],
    ['peers', whole(peers), peers === 0 ? 'nobody is connected' : 'connected now'],
  ];
  by('keys').replaceChildren(...entries.map(([name, value, more]) => {
    const entry = made('div');
    const shown = made('dd');
    shown.append(made('div', 'value', value), made('div', 'more', more));
    entry.append(made('dt', '', name), shown);
    return entry;
  }));
}

/** What a day of the present rate costs. */
function day({ ledger_bytes_per_day: bytes, catch_up_seconds_per_day: seconds }) {
  if (!bytes) return '';
  return `; a day: ${figure(bytes / 1e6)} MB${seconds === null ? '' : `, ${whole(seconds)} s to catch up`}`;
}

/** How long this node needs for what waits, and whether that becomes more. */
function behind({ seconds_behind: seconds, waiting_per_minute: grows }) {
  return seconds ? `, ${whole(seconds)} s of work${grows > 0 ? ', and more' : ''}` : '';
}

/** The best held-out point, and where the curve goes. */
function drawBest({ best, forecast, held_out: look, program }) {
  const words = [];
  if (best) {
    const measure = measureOf(best);
    words.push(`Best held-out point: ${figure(best[measure.field])} ${measure.unit} after ${whole(best.gradients)} gradients`
      + ` (${program} export --best). It is chosen on that text, so its figure there flatters it: keep another text for the final word.`);
  }
  if (look && forecast) {
    words.push(forecast.is_flat ? 'The curve is flat.'
      : forecast.gradients_to_next === null ? 'The curve does not fall.'
        : `At this rate the next 0.01 of loss takes ${whole(forecast.gradients_to_next)} gradients.`);
    if (forecast.has_stopped) words.push('This machine makes no more gradients (--stop-when-flat).');
  }
  by('best').hidden = words.length === 0;
  by('best').textContent = words.join(' ');
}

// Machines.

/** Signed bytes from hexadecimal. */
function bytesOf(text) {
  const bytes = [];
  for (let at = 0; at + 2 <= text.length; at += 2) bytes.push(parseInt(text.slice(at, at + 2), 16) << 24 >> 24);
  return bytes;
}

function drawByte(context, byte, x, width, height) {
  context.globalAlpha = 1;
  context.fillStyle = colours.cell;
  context.fillRect(x, 0, width, height);
  if (byte === VOID) {
    context.strokeStyle = colours.ink;
    context.beginPath();
    context.moveTo(x, height);
    context.lineTo(x + width, 0);
    context.moveTo(x, 0);
    context.lineTo(x + width, height);
    context.stroke();
    return;
  }
  context.fillStyle = byte < 0 ? colours.blue : colours.orange;
  context.globalAlpha = (Math.abs(byte) / 127) ** 0.6;
  context.fillRect(x, 0, width, height);
}

/** Sizes the canvas to the screen's pixels; returns its context. */
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map(length => Math.max(1, Math.round(length * ratio)));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d');
  context.clearRect(0, 0, width, height);
  return context;
}

function drawStrip(canvas, bytes) {
  const context = prepared(canvas);
  const { width, height } = canvas;
  const edge = at => Math.round(at * width / RECENT);
  const first = RECENT - bytes.length;
  const gap = width / RECENT >= 5 ? 1 : 0;
  bytes.forEach((byte, at) => {
    const x = edge(first + at);
    drawByte(context, byte, x, edge(first + at + 1) - x - gap, height);
  });
  const voids = bytes.filter(byte => byte === VOID).length;
  const range = bytes.length === 0 ? 'none' : `${bytes.length} from ${Math.min(...bytes.filter(byte => byte !== VOID), 127)} to ${Math.max(...bytes)}`;
  canvas.setAttribute('aria-label', `Latest bytes: ${range}${voids ? `, ${voids} void` : ''}`);
}

function drawScale() {
  const scale = by('scale');
  const context = prepared(scale);
  for (let x = 0; x < scale.width; x++) drawByte(context, Math.round(254 * x / (scale.width - 1)) - 127, x, 1, scale.height);
  const mark = by('void');
  drawByte(prepared(mark), VOID, 0, mark.width, mark.height);
}

/** A row for a machine: made once, changed as it changes. */
function newRow() {
  const row = made('tr');
  row.setAttribute('role', 'row');
  const cells = Array.from({ length: 6 }, () => {
    const cell = row.appendChild(made('td'));
    cell.setAttribute('role', 'cell');
    return cell;
  });
  const canvas = cells[5].appendChild(made('canvas'));
  canvas.setAttribute('role', 'img');
  canvas.addEventListener('pointermove', event => {
    const bytes = bytesOf(row.dataset.recent);
    const byte = bytes[Math.floor(event.offsetX / canvas.clientWidth * RECENT) - RECENT + bytes.length];
    canvas.title = byte === undefined ? '' : byte === VOID ? 'void: the loss was not finite' : String(byte);
  });
  return Object.assign(row, { cells_: cells, canvas });
}

function fillRow(row, machine, total) {
  const [name, height, share, speed, seen] = row.cells_;
  name.replaceChildren(made('span', 'mono', shortName(machine.machine)));
  name.title = machine.machine;
  if (machine.own) name.append(made('span', 'tag', 'this node'));
  if (machine.revoked !== null) name.append(made('span', 'tag revoked', machine.revoked));
  height.textContent = whole(machine.height);
  if (machine.counted !== machine.height) height.title = `${whole(machine.counted)} of them count`;
  share.textContent = total > 0 ? `${decimals(100 * machine.counted / total, 1)}%` : '–';
  speed.textContent = rate(machine.per_second);
  const ago = machine.last_seen_seconds;
  seen.textContent = ago === null ? 'earlier' : ago < 2 ? 'now' : `${span(ago)} ago`;
  const looks = `${machine.recent} ${row.canvas.clientWidth} ${window.devicePixelRatio} ${colours.cell}`;
  row.dataset.recent = machine.recent;
  if (row.looks !== looks) drawStrip(row.canvas, bytesOf(machine.recent));
  row.looks = looks;
}

function drawMachines(snapshot) {
  const shown = state.all ? snapshot.machines : snapshot.machines.slice(0, ROWS);
  const body = by('machines');
  while (body.children.length > shown.length) body.lastChild.remove();
  while (body.children.length < shown.length) body.append(newRow());
  shown.forEach((machine, at) => fillRow(body.children[at], machine, snapshot.swarm.total));
  const listed = snapshot.machines.length;
  // A machine that went on as another incarnation has several rows, whose names begin alike.
  const machines = new Set(snapshot.machines.map(({ machine }) => machine.split('.')[0])).size;
  by('machines-note').textContent = machines < snapshot.machine_count
    ? `${whole(machines)} of ${whole(snapshot.machine_count)} machines: this node's, then those heard of last.` : '';
  const more = by('more');
  more.hidden = listed <= ROWS;
  more.textContent = state.all ? `Show ${ROWS}` : `Show all ${listed}`;
}

// How others join.

function drawJoin(snapshot) {
  const command = snapshot.ticket ? `${snapshot.program} --join ${snapshot.ticket}` : '';
  by('join').hidden = !snapshot.ticket && !snapshot.private;
  by('copy').hidden = by('ticket-code').hidden = !snapshot.ticket;
  by('join-note').textContent = snapshot.ticket ? 'On another machine:' :
    `This run is private: its ticket holds its secret, and is not shown here. On this machine, “${snapshot.program} ticket” prints it.`;
  if (by('ticket').textContent === command) return;
  by('ticket').textContent = command;
  if (snapshot.ticket) by('ticket-code').src = `/ticket.svg?${snapshot.ticket.slice(-6)}`;
}

by('copy').addEventListener('click', async () => {
  const button = by('copy');
  try {
    await navigator.clipboard.writeText(by('ticket').textContent);
    button.textContent = 'Copied';
  } catch {
    // Only pages of this machine, or over HTTPS, may write to the clipboard.
    getSelection().selectAllChildren(by('ticket'));
    button.textContent = 'Selected: copy it';
  }
  setTimeout(() => { button.textContent = 'Copy'; }, 2000);
});

// Bytes and peers.

function drawBytes(snapshot) {
  const { traffic, swarm } = snapshot;
  const rows = [['received', 'received', 'sum'], ...CAUSES, ['sent', 'sent', 'sum']];
  by('bytes').replaceChildren(...rows.map(([name, key, style]) => {
    const row = made('tr', style);
    const per = swarm.session >= PER_GRADIENTS_MIN ? figure(traffic[key] / swarm.session) : '–';
    row.append(made('td', '', name), made('td', '', size(traffic[key])), made('td', '', per));
    const cell = row.appendChild(made('td'));
    if (style !== 'sum' && traffic.received > 0) {
      const share = 100 * traffic[key] / traffic.received;
      const bar = cell.appendChild(made('span', 'bar')).appendChild(made('i'));
      bar.style.width = `${share}%`;
      cell.title = `${decimals(share, 1)}% of what was received`;
    }
    return row;
  }));
}

function drawPeers(snapshot) {
  const rows = snapshot.peers.map(peer => {
    const row = made('tr');
    const who = row.appendChild(made('td'));
    // They all begin alike.
    who.append(made('span', 'mono', peer.peer_id.length > 16 ? `…${peer.peer_id.slice(-12)}` : peer.peer_id));
    who.title = peer.peer_id;
    if (peer.address !== null) who.append(made('span', 'where', peer.address));
    row.append(made('td', '', peer.round_trip_ms === null ? '–' : `${rate(peer.round_trip_ms)} ms`));
    return row;
  });
  if (rows.length === 0) {
    const cell = made('td', '', 'nobody is connected');
    cell.colSpan = 2;
    rows.push(made('tr'));
    rows[0].append(cell);
  }
  by('peers').replaceChildren(...rows);
}

// The loop.

function notify(snapshot) {
  const silent = (Date.now() - state.changed) / 1000;
  let text = '';
  if (state.lost === null ? snapshot?.time_ms === 0 : state.starting) {
    text = 'The node is starting.';
  } else if (state.lost !== null) {
    text = `Connection lost since ${new Date(state.lost).toLocaleTimeString('en-GB')}. The figures are from then. Trying again every second.`;
  } else if (snapshot?.phase === 'left') {
    text = 'The node has left the run.';
  } else if (silent > 10) {
    text = `The node has told nothing new for ${span(silent)}. Is the machine overloaded?`;
  }
  if (by('notice').textContent !== text) by('notice').textContent = text;
  by('notice').hidden = text === '';
  // Figures of a node that is not there are of the past.
  document.body.classList.toggle('past', state.lost !== null || snapshot?.phase === 'left');
}

function draw(snapshot) {
  drawAbout(snapshot);
  drawJoin(snapshot);
  drawKeys(snapshot);
  drawBest(snapshot);
  drawCurves();
  drawMachines(snapshot);
  drawBytes(snapshot);
  drawPeers(snapshot);
  const measure = measureOf(snapshot.held_out);
  const shown = snapshot.held_out?.[measure.field] ?? null;
  document.title = shown === null ? 'onebyte' : `${figure(shown)} ${measure.unit} – onebyte`;
}

/** Looks at what the model writes that are shown of one prompt. */
const LOOKS_SHOWN = 6;

/** What the model wrote after each prompt, from the first look to the latest. */
function drawSamples(looks) {
  const prompts = (looks.at(-1)?.samples ?? []).map(sample => sample.prompt);
  by('samples-section').hidden = prompts.length === 0;
  by('samples').replaceChildren(...prompts.map((prompt, number) => {
    const own = looks.filter(look => look.samples[number]?.prompt === prompt);
    const step = (own.length - 1) / Math.max(1, LOOKS_SHOWN - 1);
    const shown = own.length <= LOOKS_SHOWN ? own : Array.from({ length: LOOKS_SHOWN }, (_, at) => own[Math.round(at * step)]);
    const list = made('dl');
    for (const look of shown) {
      const text = made('dd');
      text.append(made('span', 'prompt', prompt), made('span', '', look.samples[number].text));
      list.append(made('dt', '', `after ${whole(look.gradients)} gradients`), text);
    }
    return list;
  }));
}

/** Asks for samples now and then; a node that others can reach shows none. */
async function lookAtSamples() {
  try {
    drawSamples(await ask('/api/samples', PATIENCE_MS));
  } catch {
    // They stay as they are.
  }
  setTimeout(lookAtSamples, SAMPLES_POLL_MS);
}
const SAMPLES_POLL_MS = 5000;

async function ask(path, patience) {
  const answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(patience) });
  if (!answer.ok) throw Object.assign(new Error(`${path}: ${answer.status}`), { status: answer.status });
  return answer.json();
}

/** Earlier points, and how many bytes had been received before this start of the program. */
async function recall(snapshot) {
  state.points = await ask('/api/history', HISTORY_PATIENCE_MS);
  const last = state.points.at(-1);
  state.before = last ? Math.max(0, last.received - snapshot.traffic.received) : 0;
}

/** The latest snapshot, or nothing if the node does not answer. */
async function latest() {
  try {
    const snapshot = await ask('/api/status', PATIENCE_MS);
    const restarted = snapshot.uptime_seconds < state.uptime;
    if (!state.snapshot || state.lost !== null || restarted || state.points.length > POINTS_MAX) await recall(snapshot);
    return snapshot;
  } catch (error) {
    state.starting = error.status === 503;
    return null;
  }
}

async function look() {
  const snapshot = await latest();
  setTimeout(look, POLL_MS);
  if (snapshot === null) {
    state.lost ??= Date.now();
  } else {
    Object.assign(state, { snapshot, uptime: snapshot.uptime_seconds, lost: null });
    if (snapshot.time_ms !== state.time) {
      Object.assign(state, { changed: Date.now(), time: snapshot.time_ms });
      if (snapshot.time_ms > (state.points.at(-1)?.time_ms ?? 0)) state.points.push(pointOf(snapshot));
      draw(snapshot);
    }
  }
  notify(state.snapshot);
}

const redraw = () => {
  colours = coloursNow();
  drawScale();
  if (state.snapshot) draw(state.snapshot);
};
for (const choice of document.querySelectorAll('input[name=over]')) {
  choice.addEventListener('change', () => {
    state.over = choice.value;
    redraw();
  });
  if (choice.checked) state.over = choice.value;
}
by('more').addEventListener('click', () => {
  state.all = !state.all;
  redraw();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
addEventListener('resize', redraw);
redraw();
look();
lookAtSamples();
