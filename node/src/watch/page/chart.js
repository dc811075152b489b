// A line chart as SVG, drawn in real pixels so that its letters keep their size.

const SVG = 'http://www.w3.org/2000/svg';
const MARGIN = { left: 46, right: 10, top: 10, bottom: 36 };
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

function svg(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Round numbers from `low` to `high`, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-6; at++) found.push(at * step);
  return { step, found };
}

/** Full seconds, minutes, hours of the local clock, in milliseconds. */
function timeTicks(low, high, count) {
  const rough = (high - low) / 1000 / count;
  const seconds = SECONDS.find(step => step >= rough) ?? Math.ceil(rough / 604800) * 604800;
  const step = seconds * 1000;
  const offset = new Date(high).getTimezoneOffset() * 60000;
  const found = [];
  for (let at = Math.ceil((low - offset) / step) * step + offset; at <= high; at += step) found.push(at);
  return { step, found };
}

const AXES = {
  number: { ticks, label: (value, step) => decimals(value, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) },
  count: { ticks, label: value => shortCount(value) },
  bytes: { ticks, label: value => size(value) },
  time: {
    ticks: timeTicks,
    label: (value, step) => {
      const time = new Date(value);
      if (step >= 86400000) return time.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' });
      const second = step < 60000 ? '2-digit' : undefined;
      return time.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', second });
    },
  },
};

class Chart {
  /** `options`: title, series [{ name, colour, dashed, dots }], zero (whether the scale begins at 0), format of a value. */
  constructor(parent, options) {
    Object.assign(this, options);
    const figure = document.createElement('figure');
    const caption = figure.appendChild(document.createElement('figcaption'));
    this.heading = made('span', 'title', this.title);
    caption.append(this.heading, this.legend());
    this.svg = figure.appendChild(svg('svg', { role: 'img' }));
    parent.append(figure);
    this.lines = this.series.map(() => []);
    this.axis = AXES.count;
    new ResizeObserver(() => this.draw()).observe(this.svg);
    // What is pointed at in one chart is shown in all that share its axis.
    this.svg.addEventListener('pointermove', event => this.pointAll(this.valueAt(event.offsetX)));
    this.svg.addEventListener('pointerleave', () => this.pointAll(null));
  }

  /** From now on it shows something else. */
  rename(title) {
    this.title = title;
    this.heading.textContent = title;
  }

  legend() {
    const legend = made('span', 'key');
    this.values = this.series.map(series => {
      const entry = legend.appendChild(made('span', 'no-break'));
      if (this.series.length > 1) entry.append(made('i', `${series.colour} ${series.dashed ? 'dashed' : ''}`));
      entry.append(this.series.length > 1 ? `${series.name} ` : '');
      return entry.appendChild(made('span', '', ''));
    });
    return legend;
  }

  /** `lines`: for each series, points [x, y] in the order of x; `range`: [from, to] of x, as all charts have it. */
  show(lines, axis, range) {
    this.lines = lines;
    this.axis = AXES[axis];
    this.range = range;
    this.draw();
  }

  /** Shows the points nearest to `at` on the x axis, or the last ones. */
  point(at) {
    this.at = at;
    this.draw();
  }

  pointAll(at) {
    this.together.forEach(chart => chart.point(at));
  }

  /** What is drawn at so many pixels from the left. */
  valueAt(pixels) {
    const scales = this.scales(this.svg.clientWidth, this.svg.clientHeight);
    return scales && scales.x0 + (pixels - MARGIN.left) / (scales.x(scales.x1) - MARGIN.left) * (scales.x1 - scales.x0);
  }

  /** The scales, or nothing if there is nothing to draw. */
  scales(width, height) {
    const all = this.lines.flat();
    if (all.length === 0 || width < 80) return null;
    const span = values => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    let [x0, x1] = this.range ?? span(all.map(point => point[0]));
    let [y0, y1] = span(all.map(point => point[1]));
    if (x0 === x1) x1 = x0 + 1;
    if (this.zero) y0 = 0;
    const room = (y1 - y0 || Math.abs(y1) * 0.1 || 1) * 0.06;
    y1 += room;
    if (!this.zero) y0 -= room;
    const wide = width - MARGIN.left - MARGIN.right, high = height - MARGIN.top - MARGIN.bottom;
    return {
      x0, x1, y0, y1,
      x: value => MARGIN.left + (value - x0) / (x1 - x0) * wide,
      y: value => MARGIN.top + (y1 - value) / (y1 - y0) * high,
    };
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    const parts = [];
    const scales = this.scales(width, height);
    if (scales) {
      this.drawAxes(parts, scales, width, height);
      this.lines.forEach((line, number) => this.drawLine(parts, scales, line, this.series[number]));
      this.drawValues(parts, scales, height);
      const ends = this.lines.map((line, number) => line.length &&
        `${this.series[number].name} from ${this.format(line[0][1])} to ${this.format(line.at(-1)[1])}`).filter(Boolean);
      this.svg.setAttribute('aria-label', `${this.title}: ${ends.join('; ')}`);
    } else {
      parts.push(svg('text', { x: width / 2, y: height / 2, 'text-anchor': 'middle', class: 'empty' }, 'nothing yet'));
      this.values.forEach(value => { value.textContent = ''; });
      this.svg.setAttribute('aria-label', `${this.title}: nothing yet`);
    }
    this.svg.replaceChildren(...parts);
  }

  drawAxes(parts, scales, width, height) {
    const bottom = height - MARGIN.bottom;
    const vertical = ticks(scales.y0, scales.y1, 4);
    for (const value of vertical.found) {
      const y = Math.round(scales.y(value)) + 0.5;
      if (y > bottom + 1) continue;
      parts.push(svg('line', { class: 'grid', x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
      const label = AXES[this.zero ? 'count' : 'number'].label(value, vertical.step);
      parts.push(svg('text', { x: MARGIN.left - 8, y: y + 4, 'text-anchor': 'end' }, label));
    }
    const horizontal = this.axis.ticks(scales.x0, scales.x1, Math.max(2, Math.floor(width / 110)));
    for (const value of horizontal.found) {
      const x = scales.x(value);
      const anchor = x > width - 30 ? 'end' : x < MARGIN.left + 12 ? 'start' : 'middle';
      parts.push(svg('line', { class: 'grid', x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      const end = anchor === 'end' ? Math.min(width, x + 14) : anchor === 'start' ? x - 4 : x;
      parts.push(svg('text', { x: end, y: bottom + 18, 'text-anchor': anchor }, this.axis.label(value, horizontal.step)));
    }
    parts.push(svg('text', { x: MARGIN.left, y: bottom + 33 }, this.over));
  }

  drawLine(parts, scales, line, series) {
    for (const piece of this.axis === AXES.time ? unbroken(line) : [line]) {
      const points = piece.map(([x, y]) => `${scales.x(x).toFixed(1)},${scales.y(y).toFixed(1)}`).join(' ');
      parts.push(svg('polyline', { class: `${series.colour} ${series.dashed ? 'dashed' : ''}`, points }));
    }
    const dots = series.dots && line.length <= 40 ? line : line.slice(-1);
    for (const [x, y] of dots) parts.push(svg('circle', { class: series.colour, cx: scales.x(x), cy: scales.y(y), r: 3.5 }));
  }

  /** The latest values in the legend, or those under the pointer. */
  drawValues(parts, scales, height) {
    const pointed = this.at !== undefined && this.at !== null;
    let marked = null;
    this.lines.forEach((line, number) => {
      const shown = pointed ? nearest(line, this.at) : line.at(-1);
      if (pointed && shown) {
        const [x, y] = [scales.x(shown[0]), scales.y(shown[1])];
        marked ??= shown[0];
        parts.push(svg('line', { class: 'cross', x1: x, x2: x, y1: MARGIN.top, y2: height - MARGIN.bottom }));
        parts.push(svg('circle', { class: this.series[number].colour, cx: x, cy: y, r: 4 }));
      }
      this.values[number].textContent = shown ? this.format(shown[1]) : '–';
    });
    if (marked !== null) {
      const step = this.axis === AXES.time ? 1000 : 1;
      parts.push(svg('text', { x: this.svg.clientWidth - MARGIN.right, y: height - 3, 'text-anchor': 'end' },
        this.axis.label(marked, step)));
    }
  }
}

/** The line cut where nothing was measured for long: the node did not run. */
function unbroken(line) {
  const gaps = line.slice(1).map(([x], at) => x - line[at][0]);
  const usual = gaps.toSorted((a, b) => a - b)[gaps.length >> 1] ?? 0;
  const pieces = [[]];
  line.forEach((point, at) => {
    if (at > 0 && gaps[at - 1] > Math.max(60000, 8 * usual)) pieces.push([]);
    pieces.at(-1).push(point);
  });
  return pieces;
}

/** The point of `line` whose x is closest to `at`. */
function nearest(line, at) {
  let best = null;
  for (const point of line) {
    if (best === null || Math.abs(point[0] - at) < Math.abs(best[0] - at)) best = point;
  }
  return best;
}
