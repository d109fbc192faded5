"""How the page of a scale looks: light or dark as the reader's system, wide or on a phone."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5b5b5b; --rule: #d9d9d9; --card: #f6f6f4;
  --line: #0072b2; --ours: #fdf1e7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --soft: #a6a6a3; --rule: #3a3a3a;
  --card: #202022; --line: #56b4e9; --ours: #33281c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); }
h1 { line-height: 1.2; margin: .5rem 0; }
h2 { margin: 2.5rem 0 .5rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
h3 { margin: 0 0 .25rem; overflow-wrap: anywhere; }
a { color: var(--line); }
nav { display: flex; flex-wrap: wrap; gap: .25rem .9rem; }
p, figcaption, li { max-width: 60rem; overflow-wrap: break-word; }
small, figcaption, .note { color: var(--soft); font-size: .85rem; }
figure { margin: .75rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; }
.sheet { width: 100%; max-width: 36rem; image-rendering: pixelated; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th, td { white-space: nowrap; }
td.long { white-space: normal; min-width: 18rem; }
tr.ours { background: var(--ours); }
td.number { text-align: right; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }
article { background: var(--card); border-radius: .5rem; padding: 1rem; min-width: 0; }
.curve svg { width: 100%; height: 4rem; display: block; }
polyline { fill: none; stroke: var(--line); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""
