// What can be checked of accessibility by a program (after WCAG 2.2), in the page as it is laid out right now.
// Returns "rule: where" for every fault.
const found = [];
const where = (e) => `${e.localName}${e.id ? "#" + e.id : ""} ${(e.textContent || e.getAttribute("src") || "").trim().slice(0, 40)}`;
const fault = (rule, e) => found.push(`${rule}: ${typeof e === "string" ? e : where(e)}`);
const all = (selector) => [...document.querySelectorAll(selector)];
const shown = (e) => e.checkVisibility({ visibilityProperty: true });
const byId = (ids) => (ids || "").split(/\s+/).filter(Boolean).map((id) => document.getElementById(id));
const named = (e) =>
  Boolean(
    (e.getAttribute("aria-label") || "").trim() ||
      byId(e.getAttribute("aria-labelledby")).some((other) => other && other.textContent.trim()) ||
      (e.getAttribute("alt") || "").trim() ||
      e.textContent.trim(),
  );

if (!document.documentElement.lang) fault("lang", "html");
if (!document.title.trim()) fault("title", "html");
const ids = all("[id]").map((e) => e.id);
for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) fault("duplicate id", id);

const levels = all("h1, h2, h3, h4, h5, h6");
if (levels.filter((h) => h.localName === "h1").length !== 1) fault("one h1", "html");
levels.forEach((h, i) => {
  const before = i ? Number(levels[i - 1].localName[1]) : 0;
  if (Number(h.localName[1]) > before + 1) fault("heading order", h);
  if (!h.textContent.trim()) fault("empty heading", h);
});

for (const image of all("img:not([alt]), img[alt='']:not([role=presentation])")) fault("image text", image);
for (const drawing of all("svg"))
  if (drawing.getAttribute("role") !== "img" || !drawing.getAttribute("aria-label")) fault("image text", drawing);
for (const control of all("input, select, textarea"))
  if (!control.labels.length && !control.getAttribute("aria-label")) fault("label", control);
for (const e of all("a[href], button, summary")) if (!named(e)) fault("name", e);
for (const region of all("[role=region], nav"))
  if (!region.getAttribute("aria-label") && !region.getAttribute("aria-labelledby")) fault("region name", region);

for (const table of all("table")) {
  if (!table.caption || !table.caption.textContent.trim()) fault("table caption", table);
  const width = table.tHead ? table.tHead.rows[0].cells.length : 0;
  for (const row of table.tBodies[0]?.rows || []) {
    const cells = [...row.cells];
    if (cells.reduce((sum, cell) => sum + cell.colSpan, 0) !== width) fault("table width", row);
    if (!cells.some((cell) => cell.localName === "th")) fault("row header", row);
  }
  for (const cell of table.querySelectorAll("th")) if (!cell.scope || !cell.textContent.trim()) fault("table header", cell);
}

for (const e of all("[aria-labelledby], [aria-describedby]"))
  for (const attribute of ["aria-labelledby", "aria-describedby"])
    if (byId(e.getAttribute(attribute)).some((other) => !other || !other.textContent.trim())) fault("reference", e);
for (const link of all('a[href^="#"]')) if (!document.getElementById(link.hash.slice(1))) fault("link target", link);

if (all("main").length !== 1) fault("one main", "html");
const landmarks = "header, main, footer, nav, aside, .skip, style, script";
for (const e of document.body.children) if (!e.matches(landmarks) && e.textContent.trim()) fault("landmark", e);
for (const e of all("[tabindex]")) {
  if (e.tabIndex > 0) fault("focus order", e);
  if (e.tabIndex === 0 && !named(e)) fault("name", e);
}
for (const e of all("a a, button a, a button, summary a, summary button, label a")) fault("nested", e);
for (const e of all("body *")) {
  const scrolls = ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1;
  if (scrolls && shown(e) && e.tabIndex < 0 && !e.querySelector("a, button, [tabindex='0']")) fault("scroll by key", e);
}

const channels = (text) => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  return { rgb: numbers.slice(0, 3), alpha: numbers.length > 3 ? numbers[3] : 1 };
};
const luminance = (rgb) =>
  rgb
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const over = (top, below) => top.rgb.map((c, i) => c * top.alpha + below[i] * (1 - top.alpha));
const ground = (e) => {
  if (!e) return [255, 255, 255];
  const own = channels(getComputedStyle(e).backgroundColor);
  return own.alpha === 1 ? own.rgb : over(own, ground(e.parentElement));
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || e.matches("style, script, option") || !shown(e)) continue;
  const style = getComputedStyle(e);
  const drawn = e.closest("svg");
  const ink = drawn ? style.fill : style.color;
  // Words on coloured bars are black or white: which of the two is another test's to check.
  if (drawn && (!/^rgb/.test(ink) || ["rgb(0, 0, 0)", "rgb(255, 255, 255)"].includes(ink))) continue;
  const below = ground(drawn ? drawn.parentElement : e);
  const [low, high] = [luminance(over(channels(ink), below)), luminance(below)].sort((a, b) => a - b);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < (large ? 3 : 4.5)) found.push(`contrast: ${ratio.toFixed(2)} ${where(e)}`);
}
return [...new Set(found)];
