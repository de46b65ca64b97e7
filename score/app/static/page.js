'use strict';
const RADIUS = 6378137;  // metres, of Web Mercator's sphere
const LISTED = 50;  // objects in the list
const at = id => document.getElementById(id);

let image = null;  // what the server tells of it
let words = [];
let hidden = new Set();
let answer = null;  // of the server; its objects are [label, score, times, area, outlines]
let map = null;
let popup = null;
let sending = null;  // the request that uploads
let asking = 0;  // the number of the question that was asked last
let asked = 0;  // questions of this image that were answered

function element(tag, text, parent, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  if (parent) parent.append(made);
  return made;
}

function wrong(text) {
  at('error').textContent = text || '';
  at('error').hidden = !text;
  if (text) at('error').scrollIntoView({block: 'nearest'});
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('the program that runs this page does not answer; start it again');
  }
  if (response.ok) return response;
  let told = {};
  try { told = await response.json(); } catch { /* no JSON: the status has to do */ }
  const error = new Error(told.error || `the server said ${response.status}`);
  error.status = response.status;
  throw error;
}

function doing(text, share) {
  at('work').hidden = text === null;
  at('doing').textContent = text || '';
  at('progress').value = share || 0;  // never a bar that moves by itself: where there is no GPU that takes a core
}

function remember() {
  try {
    sessionStorage.setItem('page', JSON.stringify({id: image && image.id, words}));
  } catch { /* a browser that keeps nothing */ }
}

// The image

function bring(files) {
  wrong('');
  if (!files.length) return;
  const file = files[0], most = Number(document.body.dataset.megabytes);
  if (files.length > 1) wrong(`one image at a time: ${file.name} was taken`);
  if (file.size > most * 1e6) return wrong(`${file.name}: larger than ${most} MB, which is the most taken here`);
  leave();
  at('start').hidden = true;
  at('name').textContent = file.name;
  at('another').hidden = false;
  doing(`Sending ${file.name}`, 0);
  const request = sending = new XMLHttpRequest();
  request.open('POST', '/images');
  request.setRequestHeader('X-Name', encodeURIComponent(file.name));
  request.setRequestHeader('Content-Type', 'application/octet-stream');
  request.upload.addEventListener('progress', event => {
    if (event.loaded < event.total) doing(`Sending ${file.name}`, event.loaded / event.total);
    else doing(`Reading ${file.name}`, 1);
  });
  request.addEventListener('loadend', () => {
    if (sending !== request) return;
    sending = null;
    let told = {};
    try { told = JSON.parse(request.responseText); } catch { /* broken off */ }
    if (request.status === 200) return open({id: told.id, ...told});
    leave();
    wrong(told.error || `${file.name}: could not be sent; is the program that runs this page still there?`);
  });
  request.send(file);
}

function leave() {
  if (sending) { const request = sending; sending = null; request.abort(); }
  if (image) call(`/images/${image.id}`, {method: 'DELETE'}).catch(() => {});
  image = answer = null;
  asking++;
  asked = 0;
  if (map) { map.remove(); map = null; }
  doing(null);
  at('start').hidden = false;
  at('another').hidden = true;
  at('name').textContent = 'No image yet';
  at('found').hidden = true;
  at('time').textContent = '';
  at('notes').replaceChildren();
  remember();
}

function open(told) {
  image = told;
  remember();
  at('start').hidden = true;
  at('another').hidden = false;
  at('name').textContent = image.name;
  show();
  watch(image.id);
}

async function watch(id) {
  while (image && image.id === id) {
    let told;
    try {
      told = await (await call(`/images/${id}`)).json();
    } catch (error) {
      if (image && image.id === id) { leave(); wrong(error.message); }
      return;
    }
    if (!image || image.id !== id) return;
    if (told.state === 'failed') { leave(); return wrong(told.error); }
    if (told.state === 'ready') {
      doing(null);
      image.looked = told;
      notes(told);
      at('word').focus({preventScroll: true});
      return ask();
    }
    if (told.state === 'waiting') doing(told.before === 1 ? 'One image is before yours' : told.before ? `${told.before} images are before yours` : 'Your image is next');
    else if (!told.tiles) doing('The model looks at the image');
    else doing(`The model looks at the image: ${told.done} of ${told.tiles} tiles, ${seconds(told.eta)} left`, told.done / told.tiles);
    await new Promise(done => setTimeout(done, 300));
  }
}

function notes(told) {
  at('notes').replaceChildren();
  for (const note of told.notes.slice(0, 5)) element('p', `${told.name}: ${note}`.replace(`${told.name}: ${told.name}`, told.name), at('notes'));
}

function seconds(value) {
  if (value === null || value === undefined) return 'a moment';
  return value < 10 ? `${value.toFixed(value < 1 ? 2 : 1)} s` : value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}

// The map: everything is placed in pixels of the image, and laid onto the Earth by one rule.

function lonlat([x, y]) {
  const [a, b, c, d, e, f] = image.place;
  const east = a * x + b * y + c, north = d * x + e * y + f;
  return [east / RADIUS * 180 / Math.PI, Math.atan(Math.sinh(north / RADIUS)) * 180 / Math.PI];
}

function pixel({lng, lat}) {
  const [a, b, c, d, e, f] = image.place;
  const x = lng * Math.PI / 180 * RADIUS - c, y = Math.asinh(Math.tan(lat * Math.PI / 180)) * RADIUS - f;
  const size = a * e - b * d;
  return [(e * x - b * y) / size, (a * y - d * x) / size];
}

function corners(x, y, width, height) {
  return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]].map(lonlat);
}

function whole() {
  const places = corners(0, 0, image.width, image.height);
  const lons = places.map(place => place[0]), lats = places.map(place => place[1]);
  return [[Math.min(...lons), Math.min(...lats)], [Math.max(...lons), Math.max(...lats)]];
}

// What is less than so many pixels wide on the screen is drawn as a dot, for outlines so small are left out.
const small = ['<', ['*', ['get', 'width'], ['^', 2, ['zoom']]], 5];
const nothing = {type: 'FeatureCollection', features: []};

function show() {
  if (map) map.remove();
  document.body.dataset.map = '';
  map = new maplibregl.Map({
    container: 'map', bounds: whole(), fitBoundsOptions: {padding: 16}, maxZoom: 24, attributionControl: false,
    renderWorldCopies: false, dragRotate: false, pitchWithRotate: false, touchPitch: false,
    style: {
      version: 8,
      sources: {
        image: {type: 'image', url: `/images/${image.id}/overview.jpg`, coordinates: corners(0, 0, image.width, image.height)},
        objects: {type: 'geojson', maxzoom: 22, tolerance: 0.1, data: nothing},
        specks: {type: 'geojson', maxzoom: 22, data: nothing},
        tops: {type: 'geojson', maxzoom: 22, data: nothing},
      },
      layers: [
        {id: 'ground', type: 'background', paint: {'background-color': '#181818'}},
        {id: 'image', type: 'raster', source: 'image', paint: {'raster-fade-duration': 0}},
        {id: 'areas', type: 'fill', source: 'objects', paint: {'fill-color': ['get', 'colour'], 'fill-opacity': 0.35}},
        {id: 'edges', type: 'line', source: 'objects', paint: {'line-color': ['get', 'colour'], 'line-width': 2}},
        {id: 'dots', type: 'circle', source: 'specks', filter: small, paint: {'circle-color': ['get', 'colour'], 'circle-radius': 3}},
        {id: 'names', type: 'symbol', source: 'tops', layout: {
          'icon-image': ['get', 'icon'], 'icon-anchor': 'bottom', 'icon-padding': 1, 'symbol-sort-key': ['-', ['get', 'times']]}},
      ],
    },
  });
  window.map = map;  // for tests
  const own = map;
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new maplibregl.NavigationControl({showCompass: false}), 'top-left');
  if (image.real) map.addControl(new maplibregl.ScaleControl({maxWidth: 120}));
  map.on('load', () => { document.body.dataset.map = 'ready'; draw(); });
  map.on('moveend', detail);
  map.on('mousemove', ['areas', 'dots'], () => { own.getCanvas().style.cursor = 'pointer'; });
  map.on('mouseleave', ['areas', 'dots'], () => { own.getCanvas().style.cursor = ''; });
  map.on('click', ['areas', 'dots'], event => {
    const hits = event.features.map(feature => feature.properties.index);
    tell(Math.min(...hits), event.lngLat);  // the best: they come in that order
  });
}

// Of an image with more pixels than its overview, what the screen shows is fetched at the screen's own resolution.
function detail() {
  if (!map || !map.getSource('image')) return;
  const shown = image.overview / image.width;
  const {clientWidth, clientHeight} = map.getContainer();
  const ends = [[0, 0], [clientWidth, 0], [clientWidth, clientHeight], [0, clientHeight]].map(end => pixel(map.unproject(end)));
  const xs = ends.map(end => end[0]), ys = ends.map(end => end[1]);
  const x = Math.max(0, Math.floor(Math.min(...xs))), y = Math.max(0, Math.floor(Math.min(...ys)));
  const width = Math.min(image.width, Math.ceil(Math.max(...xs))) - x;
  const height = Math.min(image.height, Math.ceil(Math.max(...ys))) - y;
  const scale = Math.min(1, clientWidth * devicePixelRatio / (Math.max(...xs) - Math.min(...xs)));
  if (shown >= 1 || scale < shown * 1.1 || width < 1 || height < 1) {
    if (map.getLayer('detail')) map.setLayoutProperty('detail', 'visibility', 'none');
    return;
  }
  const across = Math.max(1, Math.min(2048, Math.round(width * scale)));
  const url = `/images/${image.id}/part.jpg?x=${x}&y=${y}&width=${width}&height=${height}&across=${across}`;
  const coordinates = corners(x, y, width, height);
  if (map.getSource('detail')) {
    map.getSource('detail').updateImage({url, coordinates});
    map.setLayoutProperty('detail', 'visibility', 'visible');
  } else {
    map.addSource('detail', {type: 'image', url, coordinates});
    map.addLayer({id: 'detail', type: 'raster', source: 'detail', paint: {'raster-fade-duration': 0}}, 'areas');
  }
}

// A word on its colour; text of MapLibre's own would need files of letters.
function icon(word, colour) {
  const name = `${colour} ${word}`;
  if (map.hasImage(name)) return name;
  const text = word.length > 30 ? `${word.slice(0, 29)}…` : word, scale = 2, height = 18;
  const canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
  const font = `600 ${12 * scale}px system-ui, sans-serif`;
  pen.font = font;
  canvas.width = Math.ceil(pen.measureText(text).width) + 10 * scale;
  canvas.height = height * scale;
  const [red, green, blue] = [1, 3, 5].map(place => parseInt(colour.slice(place, place + 2), 16));
  pen.fillStyle = colour;
  pen.beginPath();
  pen.roundRect(0, 0, canvas.width, canvas.height - 2 * scale, 4 * scale);
  pen.fill();
  pen.font = font;
  pen.textBaseline = 'middle';
  pen.fillStyle = 0.3 * red + 0.59 * green + 0.11 * blue > 140 ? '#000' : '#fff';
  pen.fillText(text, 5 * scale, (height / 2 - 0.5) * scale);
  map.addImage(name, pen.getImageData(0, 0, canvas.width, canvas.height), {pixelRatio: scale});
  return name;
}

function extent(object) {
  const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  for (const part of object[4]) for (const place of part[0]) for (const axis of [0, 1]) {
    low[axis] = Math.min(low[axis], place[axis]);
    high[axis] = Math.max(high[axis], place[axis]);
  }
  return [...low, ...high];
}

function draw() {
  if (!map || !map.getSource('objects')) return;
  const layers = {objects: [], specks: [], tops: []};
  const degrees = Math.hypot(image.place[0], image.place[3]) / RADIUS * 180 / Math.PI;  // of a pixel
  if (answer) answer.objects.forEach((object, index) => {
    const [label, score, times, , outlines] = object, colour = answer.colours[label];
    const [left, top, right, bottom] = extent(object);
    const middle = lonlat([(left + right) / 2, (top + bottom) / 2]);
    const properties = {
      index, label, score, times, colour, icon: icon(answer.words[label], colour),
      width: Math.max(right - left, bottom - top) * degrees / 360 * 512,  // pixels of the screen at zoom 0
    };
    const feature = (type, coordinates) => ({type: 'Feature', properties, geometry: {type, coordinates}});
    layers.objects.push(feature('MultiPolygon', outlines.map(part => part.map(ring => ring.map(lonlat)))));
    layers.specks.push(feature('Point', middle));
    layers.tops.push(feature('Point', lonlat([(left + right) / 2, top])));
  });
  for (const [name, features] of Object.entries(layers)) map.getSource(name).setData({type: 'FeatureCollection', features});
  filter();
}

function tell(index, place) {
  const [label, score, , area] = answer.objects[index];
  const body = element('div');
  element('h2', answer.words[label], body);
  const list = element('dl', undefined, body);
  const facts = {score: score.toFixed(2), threshold: (answer.least[label] * times()).toFixed(3), area: size(area)};
  for (const [name, value] of Object.entries(facts)) { element('dt', name, list); element('dd', value, list); }
  if (popup) popup.remove();
  popup = new maplibregl.Popup({maxWidth: '260px', focusAfterOpen: false}).setLngLat(place).setDOMContent(body).addTo(map);
}

function size(area) {
  const digits = area < 100 && image.unit === 'm2' ? 1 : 0;
  return `${area.toLocaleString('en', {maximumFractionDigits: digits})} ${image.unit === 'm2' ? 'm²' : 'pixels'}`;
}

// Words

function add(text) {
  const fresh = text.split(/[,\n\t]/).map(word => word.trim().replace(/\s+/g, ' ')).filter(Boolean);
  if (!fresh.length) return;
  const again = fresh.filter((word, place) => [...words, ...fresh.slice(0, place)].some(known => known.toLowerCase() === word.toLowerCase()));
  wrong(again.length ? `${again[0]}: is among the words already` : '');
  const more = fresh.filter(word => !again.includes(word));
  if (!more.length) return;
  words = [...words, ...more];
  chips();
  ask();
}

function drop(word) {
  words = words.filter(other => other !== word);
  hidden.delete(word);
  wrong('');
  chips();
  ask();
  at('word').focus();
}

function chips() {
  at('words').querySelectorAll('.chip').forEach(chip => chip.remove());
  for (const word of words) {
    const chip = element('span', word, undefined, 'chip');
    const cross = element('button', '×', chip);
    cross.type = 'button';
    cross.setAttribute('aria-label', `remove ${word}`);
    cross.addEventListener('click', () => drop(word));
    at('word').before(chip);
  }
  at('word').placeholder = words.length ? 'another word' : 'ship, storage tank';
  remember();
}

async function ask() {
  const number = ++asking;
  if (!image || !image.looked) return;
  if (popup) popup.remove();
  if (!words.length) {
    answer = null;
    at('found').hidden = true;
    at('time').textContent = `The network looked at the image once, in ${seconds(image.looked.seconds)}. Now type what to look for.`;
    return draw();
  }
  at('time').textContent = 'Asking …';
  const begin = performance.now();
  try {
    const response = await call(`/images/${image.id}/words`, {
      method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({words})});
    const told = await response.json();
    if (number !== asking) return;
    answer = told;
  } catch (error) {
    if (number !== asking) return;
    at('time').textContent = '';
    if (error.status === 404) leave();
    return wrong(error.message);
  }
  const took = seconds((performance.now() - begin) / 1000);
  at('time').textContent = asked++
    ? `Answered in ${took}, without the network: it looked at the image once, in ${seconds(image.looked.seconds)}.`
    : `The network looked at the image once, in ${seconds(image.looked.seconds)}. Answered in ${took}.`;
  legend();
  draw();
  at('found').hidden = false;
}

// What is shown

function times() {
  const value = Number(at('times').value);
  return Math.abs(value) < 1e-6 ? 1 : 10 ** value;
}

function visible() {
  const least = times();
  return answer.objects.flatMap((object, index) => object[2] >= least && !hidden.has(answer.words[object[0]]) ? [index] : []);
}

function legend() {
  at('legend').replaceChildren();
  answer.words.forEach((word, label) => {
    const row = element('label', undefined, at('legend'));
    const box = element('input', undefined, row);
    box.type = 'checkbox';
    box.checked = !hidden.has(word);
    box.addEventListener('change', () => { if (box.checked) hidden.delete(word); else hidden.add(word); filter(); });
    element('span', undefined, row, 'swatch').style.background = answer.colours[label];
    element('span', word, row, 'word');
    element('span', undefined, row, 'least').title =
      answer.seen[label] ? 'least score; the model was trained on this word' : 'least score; the model was not trained on this word';
    element('span', undefined, row, 'count');
  });
}

function filter() {
  if (!answer) return;
  const least = times(), shown = visible();
  const labels = answer.words.flatMap((word, label) => hidden.has(word) ? [] : [label]);
  const rule = ['all', ['>=', ['get', 'times'], least], ['in', ['get', 'label'], ['literal', labels]]];
  if (map && map.getLayer('areas')) {
    for (const layer of ['areas', 'edges', 'names']) map.setFilter(layer, rule);
    map.setFilter('dots', [...rule, small]);
  }
  const counts = answer.words.map((word, label) => answer.objects.filter(object => object[0] === label && object[2] >= least).length);
  at('legend').querySelectorAll('label').forEach((row, label) => {
    row.querySelector('.least').textContent = `≥ ${Math.min(1, answer.least[label] * least).toPrecision(2)}`;
    row.querySelector('.count').textContent = counts[label];
  });
  const left = answer.total - answer.objects.length;
  at('count').textContent = (shown.length === 1 ? '1 object' : `${shown.length} objects`) + (left ? `; the ${left} least sure are left out` : '');
  at('told').textContent = least === 1 ? "the model's own" : `× ${least.toPrecision(2)}`;
  at('times').setAttribute('aria-valuetext', at('told').textContent);
  at('reset').disabled = least === 1;
  at('objects').replaceChildren();
  for (const index of shown.slice(0, LISTED)) {
    const [label, score, , area] = answer.objects[index];
    const row = element('button', undefined, element('li', undefined, at('objects')));
    row.type = 'button';
    element('span', undefined, row, 'swatch').style.background = answer.colours[label];
    element('span', answer.words[label], row, 'word');
    element('span', score.toFixed(2), row);
    element('span', size(area), row, 'quiet');
    row.addEventListener('click', () => go(index));
  }
  if (shown.length > LISTED) element('li', `and ${shown.length - LISTED} more`, at('objects'), 'quiet');
}

function go(index) {
  const [left, top, right, bottom] = extent(answer.objects[index]), room = Math.max(right - left, bottom - top, 20);
  const low = lonlat([left - room, bottom + room]), high = lonlat([right + room, top - room]);
  map.fitBounds(new maplibregl.LngLatBounds(low, low).extend(high), {maxZoom: 22, animate: !matchMedia('(prefers-reduced-motion)').matches});
  tell(index, lonlat([(left + right) / 2, (top + bottom) / 2]));
}

async function download(suffix) {
  const query = new URLSearchParams();
  answer.words.forEach(word => query.append('word', word));
  hidden.forEach(word => query.append('hide', word));
  query.append('times', String(times()));
  try {
    const response = await call(`/images/${image.id}/objects.${suffix}?${query}`);
    const link = element('a');
    link.href = URL.createObjectURL(await response.blob());
    link.download = `${image.name.replace(/\.[^.]*$/, '')}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    wrong(error.message);
  }
}

// What a user does

at('choose').addEventListener('click', () => at('file').click());
at('another').addEventListener('click', () => at('file').click());
at('file').addEventListener('change', () => { bring([...at('file').files]); at('file').value = ''; });
for (const kind of ['dragenter', 'dragover']) addEventListener(kind, event => { event.preventDefault(); document.body.classList.add('over'); });
addEventListener('dragleave', event => { if (!event.relatedTarget) document.body.classList.remove('over'); });
addEventListener('drop', event => { event.preventDefault(); document.body.classList.remove('over'); bring([...event.dataTransfer.files]); });
at('words').addEventListener('click', event => { if (event.target === at('words')) at('word').focus(); });
at('word').addEventListener('keydown', event => {
  if (event.isComposing) return;
  const field = at('word');
  if (event.key === 'Enter' || event.key === ',') { event.preventDefault(); add(field.value); field.value = ''; }
  else if (event.key === 'Backspace' && !field.value && words.length) drop(words[words.length - 1]);
});
at('word').addEventListener('input', () => {
  if (/[,\n]/.test(at('word').value)) { add(at('word').value); at('word').value = ''; }  // pasted
});
at('word').addEventListener('change', () => { add(at('word').value); at('word').value = ''; });
let soon = 0;
at('times').addEventListener('input', () => { clearTimeout(soon); soon = setTimeout(filter, 20); });
at('reset').addEventListener('click', () => { at('times').value = 0; filter(); });
at('download').addEventListener('click', event => { if (event.target.dataset.suffix) download(event.target.dataset.suffix); });

(async () => {  // after a reload, the same image
  let kept = {};
  try { kept = JSON.parse(sessionStorage.getItem('page')) || {}; } catch { /* nothing kept */ }
  words = kept.words || [];
  chips();
  if (!kept.id) return;
  try {
    const told = await (await call(`/images/${kept.id}`)).json();
    if (!image && !sending && told.width) open({id: kept.id, ...told});
  } catch { /* it is gone: begin anew */ }
})();
