# SPDX-License-Identifier: Apache-2.0
"""How `report.html` looks: light and dark, from a telephone's width to a wide screen, and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1d21; --quiet: #5a616b; --line: #d5d9e0;
  --panel: #f4f6f9; --notice: #fff4d6; --notice-line: #b98900; --warning: #fdeaea; --warning-line: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15171b; --text: #e8eaee; --quiet: #a4abb6; --line: #383d46; --panel: #1e2127;
    --notice: #33290c; --notice-line: #d9a514; --warning: #3a1c1b; --warning-line: #f2867e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 75ch; }
.meta, caption, figcaption { color: var(--quiet); font-size: .875rem; }
.notice, .warnings { padding: .6rem 1rem; border-left: 4px solid var(--notice-line);
  background: var(--notice); max-width: none; }
.warnings { border-color: var(--warning-line); background: var(--warning); margin-top: 1rem; }
.warnings h2 { border: 0; margin: 0; padding: 0; font-size: 1.05rem; }
.warnings ul { margin: .25rem 0; padding-left: 1.25rem; }
.summary { list-style: none; padding: 0; margin: .5rem 0; font-size: 1.05rem; }
.summary li { margin: .25rem 0; }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .5em; border-radius: 2px;
  border: 1px solid var(--quiet); vertical-align: -.05em; print-color-adjust: exact; }
.light { display: inline-block; padding: 0 .5em; border-radius: 1em; font-size: .8125rem; font-weight: 600;
  color: #ffffff; print-color-adjust: exact; }
.light.green { background: #1e7d34; }
.light.amber { background: #ffbf00; color: #1b1d21; }
.light.red { background: #b3261e; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; max-width: none; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; min-width: min(100%, 40rem); font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; caption-side: top; }
th, td { padding: .35rem .75rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { background: var(--panel); font-size: .875rem; vertical-align: bottom; }
tbody th { font-weight: 500; white-space: nowrap; }
.number { text-align: right; }
td.number { white-space: nowrap; }
code { font-size: .8125rem; overflow-wrap: anywhere; }
td code { display: inline-block; min-width: 14rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
  gap: .75rem; margin: .5rem 0; }
.pictures.small { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
figure { margin: 0; max-width: 34rem; }
img { display: block; width: 100%; height: auto; background: #000; border-radius: 3px; }
.scale { display: flex; flex-wrap: wrap; gap: .25rem 2rem; align-items: center; }
.scale p { flex: 1 1 22rem; margin: .25rem 0; font-size: .9375rem; color: var(--quiet); }
.bar { flex: 0 1 18rem; min-width: 14rem; }
.ramp { height: .9rem; border: 1px solid var(--line); border-radius: 2px; print-color-adjust: exact; }
.ticks { display: flex; justify-content: space-between; font-size: .8125rem; }
@media print { main { max-width: none; } figure, tr { break-inside: avoid; } }
""".strip()
