#include "quant/report_assets.h"

namespace optiq {

const char kReportCss[] = R"css(
:root {
  color-scheme: light dark;
  --bg: #f7f6f3; --card: #ffffff; --ink: #1d1c1a; --soft: #6a665f; --faint: #98938a; --rule: #e4e1db; --wash: #f0eee9;
  --accent: #1f6f64; --accent-wash: #e2efec; --warn: #8a5a00; --warn-wash: #fbf1dc;
  --s0: #fdf4e8; --s1: #fbe5cb; --s2: #f8d1a5; --s3: #f3b77f; --s4: #ea9a5f; --s5: #dd7b49; --s6: #c85c3b; --s7: #ab4031;
  --s8: #882d2c; --s9: #621c25;
  --b2: #eaf0f8; --b3: #cfdff1; --b4: #abcae8; --b5: #7fafdc; --b6: #5390ca; --b8: #2c67a8; --b16: #173c6c;
  --on-light: #23313f; --on-dark: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #141413; --card: #1d1d1b; --ink: #eceae5; --soft: #a5a199; --faint: #77736c; --rule: #32312e; --wash: #272624;
    --accent: #5cc2b1; --accent-wash: #1d3430; --warn: #e9be6b; --warn-wash: #342a17;
    --s0: #2a231f; --s1: #3c2c23; --s2: #543728; --s3: #70432c; --s4: #8f5230; --s5: #af6537; --s6: #cb7d43; --s7: #e29c5b;
    --s8: #f2bd81; --s9: #fce3b8;
    --b2: #1d2733; --b3: #233849; --b4: #294c6c; --b5: #346594; --b6: #4885ba; --b8: #74addd; --b16: #bddbf5;
    --on-light: #dfe8f1; --on-dark: #10202f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header .over { color: var(--accent); font-weight: 600; font-size: 13px; letter-spacing: .04em; }
h1 { font-size: clamp(24px, 4vw, 34px); line-height: 1.2; letter-spacing: -.015em; margin: 4px 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; letter-spacing: -.01em; margin: 0 0 4px; }
h3 { font-size: 14px; margin: 22px 0 8px; }
p { margin: 0 0 14px; max-width: 96ch; }
.sub, .note { color: var(--soft); }
.note { font-size: 14px; }
code, .path { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 24px 26px; margin-top: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(168px, 1fr)); gap: 12px; margin-top: 26px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 16px 18px; }
.tile b { display: block; font-size: 27px; line-height: 1.15; font-weight: 650; letter-spacing: -.02em; margin: 2px 0;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile b small { font-size: 15px; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.tile span { color: var(--soft); font-size: 13px; display: block; line-height: 1.4; }
.tile.main { background: var(--accent-wash); border-color: transparent; }
.tile.main b { color: var(--accent); }
.warn { background: var(--warn-wash); color: var(--warn); border-radius: 12px; padding: 12px 18px; margin-top: 20px; }
.warn ul { margin: 0; padding-left: 18px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; white-space: nowrap; }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--rule); }
tbody tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr.us td { background: var(--accent-wash); font-weight: 600; }
td:first-child { min-width: 8.5em; }
tr.us td:first-child { box-shadow: inset 3px 0 var(--accent); padding-left: 12px; border-radius: 6px 0 0 6px; }
tr.us td:last-child { border-radius: 0 6px 6px 0; padding-right: 10px; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg text { font-size: 12px; fill: var(--soft); }
svg .lab { font-size: 13px; fill: var(--ink); }
svg .tick { font-size: 12px; fill: var(--faint); font-variant-numeric: tabular-nums; }
.map rect { stroke: var(--card); stroke-width: 0; }
.map g text { font-size: 12px; font-weight: 600; pointer-events: none; }
.map g:hover rect { stroke: var(--ink); stroke-width: 1.5; }
.s0 rect { fill: var(--s0); } .s1 rect { fill: var(--s1); } .s2 rect { fill: var(--s2); } .s3 rect { fill: var(--s3); }
.s4 rect { fill: var(--s4); } .s5 rect { fill: var(--s5); } .s6 rect { fill: var(--s6); } .s7 rect { fill: var(--s7); }
.s8 rect { fill: var(--s8); } .s9 rect { fill: var(--s9); } .none rect { fill: var(--wash); }
.b2 rect { fill: var(--b2); } .b3 rect { fill: var(--b3); } .b4 rect { fill: var(--b4); } .b5 rect { fill: var(--b5); }
.b6 rect { fill: var(--b6); } .b8 rect { fill: var(--b8); } .b16 rect { fill: var(--b16); }
.map .b2 text, .map .b3 text, .map .b4 text, .map .b5 text { fill: var(--on-light); }
.map .b6 text, .map .b8 text, .map .b16 text { fill: var(--on-dark); }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 16px; color: var(--soft); font-size: 13px; margin: 10px 0 0; }
.ramp { display: inline-flex; border-radius: 4px; overflow: hidden; margin: 0 6px; vertical-align: -2px; }
.ramp i { width: 20px; height: 13px; }
.key { display: inline-flex; align-items: center; gap: 7px; }
.key svg { width: 18px; height: 18px; flex: none; }
.outside { display: flex; flex-wrap: wrap; gap: 8px; margin: 12px 0 0; padding: 0; list-style: none; }
.outside li { display: flex; overflow-wrap: anywhere; align-items: center; gap: 8px; background: var(--wash); border-radius: 8px; padding: 5px 11px; font-size: 13px; }
.outside i { width: 13px; height: 13px; border-radius: 3px; flex: none; }
.is0 { background: var(--s0); } .is1 { background: var(--s1); } .is2 { background: var(--s2); } .is3 { background: var(--s3); }
.is4 { background: var(--s4); } .is5 { background: var(--s5); } .is6 { background: var(--s6); } .is7 { background: var(--s7); }
.is8 { background: var(--s8); } .is9 { background: var(--s9); } .isnone { background: var(--rule); }
.ib2 { background: var(--b2); } .ib3 { background: var(--b3); } .ib4 { background: var(--b4); } .ib5 { background: var(--b5); }
.ib6 { background: var(--b6); } .ib8 { background: var(--b8); } .ib16 { background: var(--b16); }
.chip { display: inline-block; min-width: 30px; text-align: center; border-radius: 6px; padding: 0 7px; font-size: 12.5px;
  font-weight: 600; line-height: 21px; }
.chip.ib2, .chip.ib3, .chip.ib4, .chip.ib5, .share .ib2, .share .ib3, .share .ib4, .share .ib5 { color: var(--on-light); }
.chip.ib6, .chip.ib8, .chip.ib16, .share .ib6, .share .ib8, .share .ib16 { color: var(--on-dark); }
.share { display: flex; height: 34px; border-radius: 8px; overflow: hidden; gap: 2px; margin: 12px 0 8px; }
.share div { display: flex; align-items: center; justify-content: center; font-size: 13px; font-weight: 600; min-width: 3px;
  overflow: hidden; white-space: nowrap; }
.bars { list-style: none; margin: 12px 0 0; padding: 0; }
.bars li { display: grid; grid-template-columns: minmax(0, 15em) 1fr 5.5em 3em; gap: 12px; align-items: center; padding: 3px 0; }
.bars .path { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.bars .bar { height: 15px; border-radius: 0 4px 4px 0; min-width: 2px; }
.bars .val { text-align: right; font-variant-numeric: tabular-nums; font-size: 13px; }
.curve { min-width: 760px; }
.grid { stroke: var(--rule); stroke-width: 1; } .grid.minor { stroke: var(--wash); }
.area { fill: var(--accent); opacity: .07; }
.line { fill: none; stroke: var(--accent); stroke-width: 2.5; stroke-linejoin: round; }
.dot { fill: var(--accent); }
.shipped circle { fill: var(--accent); stroke: var(--card); stroke-width: 2; } .shipped .halo { opacity: .22; stroke: none; }
svg .shipped text { fill: var(--accent); font-weight: 650; font-size: 14px; }
.uniform rect { fill: var(--card); stroke: var(--soft); stroke-width: 2; }
.measured { fill: var(--s6); stroke: var(--card); stroke-width: 1.5; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
pre { background: var(--wash); border-radius: 10px; padding: 12px 16px; overflow-x: auto; margin: 10px 0 16px; }
pre code { white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.tall { max-height: 70vh; overflow: auto; margin-top: 12px; border-top: 1px solid var(--rule); }
.tall thead th { position: sticky; top: 0; background: var(--card); z-index: 1; box-shadow: inset 0 -1px var(--rule); }
.tall td { padding-top: 4px; padding-bottom: 4px; font-size: 13px; }
th button { all: unset; cursor: pointer; color: inherit; font: inherit; }
th button:focus-visible, input:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
th button::after { content: "\2195"; opacity: .35; padding-left: 4px; }
th[aria-sort=ascending] button::after { content: "\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\2193"; opacity: 1; }
input[type=search] { font: inherit; font-size: 14px; color: inherit; background: var(--bg); border: 1px solid var(--rule);
  border-radius: 8px; padding: 6px 12px; width: min(100%, 320px); }
#tip { position: fixed; z-index: 9; pointer-events: none; background: var(--ink); color: var(--bg); border-radius: 8px;
  padding: 7px 11px; font-size: 12.5px; line-height: 1.45; white-space: pre-line; max-width: 340px; overflow-wrap: anywhere;
  box-shadow: 0 4px 18px rgba(0, 0, 0, .22); }
footer { color: var(--faint); font-size: 13px; margin-top: 26px; }
@media (max-width: 640px) {
  main { padding: 22px 12px 40px; } section { padding: 18px 16px; border-radius: 12px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tile { padding: 12px 14px; } .tile b { font-size: 22px; }
  .bars li { grid-template-columns: 1fr auto auto; gap: 2px 10px; padding: 6px 0; } .bars .track { grid-row: 2; grid-column: 1 / 4; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print { body { background: #fff; } .tall { max-height: none; } section { break-inside: avoid; } }
)css";

const char kReportScript[] = R"js(
(() => {
  const tip = document.createElement('div');
  tip.id = 'tip';
  tip.hidden = true;
  document.body.append(tip);
  const show = (event) => {
    const target = event.target.closest && event.target.closest('[data-tip]');
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16;
    const y = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below;
    tip.style.left = Math.max(8, x) + 'px';
    tip.style.top = y + 'px';
  };
  addEventListener('pointermove', show);
  addEventListener('pointerdown', show);
  addEventListener('scroll', () => { tip.hidden = true; }, true);

  const table = document.getElementById('weights');
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((th, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = th.textContent;
    th.replaceChildren(button);
    button.addEventListener('click', () => {
      const numeric = th.classList.contains('n');
      const was = th.getAttribute('aria-sort');
      const down = was ? was === 'ascending' : numeric;
      heads.forEach((h) => h.removeAttribute('aria-sort'));
      th.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const compare = numeric ? (a, b) => a[0] - b[0] : (a, b) => a[0].localeCompare(b[0], 'en', {numeric: true});
      const rows = [...body.rows].map((row) => [numeric ? Number(key(row)) : key(row), row]);
      rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
      body.append(...rows.map((r) => r[1]));
    });
  });
  const filter = document.getElementById('filter');
  filter.hidden = false;
  filter.addEventListener('input', () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((w) => text.includes(w));
    }
  });
})();
)js";

}  // namespace optiq
