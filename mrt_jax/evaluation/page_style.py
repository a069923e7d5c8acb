"""The style sheet of the report: one column on a phone, light or dark as the reader has it, paper.

It loads nothing: system fonts, no images, no scripts.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f6f7f8; --card: #ffffff; --text: #1f2328; --muted: #5b636d; --rule: #dde1e6;
  --track: #e9ecf0; --better: #0b6fae; --worse: #b54a00; --open: #6b7280;
}
.series { --series: var(--on-light); }
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #121519; --card: #1b1f24; --text: #e6e8eb; --muted: #a3abb5; --rule: #30363d;
    --track: #2b3138; --better: #5fb4ea; --worse: #ff9a63; --open: #a3abb5;
  }
  .series { --series: var(--on-dark); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 28px 16px 56px; }
h1 {
  font-size: 1.625rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 14px;
  text-wrap: balance;
}
h2 { font-size: 1.2rem; line-height: 1.3; margin: 44px 0 6px; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0 0 10px; max-width: 84ch; }
.muted, figcaption, footer { color: var(--muted); }
.small, figcaption, footer { font-size: 0.875rem; line-height: 1.5; }
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px;
}
.headline { font-size: 1.125rem; line-height: 1.5; margin: 0 0 12px; max-width: 74ch; }
.finding { margin: 0 0 6px; } .finding + .muted { margin-top: 14px; }
.swatch { display: inline-block; vertical-align: -0.1em; margin-right: 7px; }
.swatch * { stroke: var(--series); } .swatch path:last-child { fill: var(--series); }

.differences { display: grid; gap: 14px; margin: 18px 0 0; }
.differences h3 { margin-bottom: 12px; }
.difference { padding: 8px 0 6px; border-top: 1px solid var(--rule); }
.difference p { display: flex; justify-content: space-between; gap: 12px; margin: 0; }
.difference b { font-variant-numeric: tabular-nums; white-space: nowrap; }
.difference svg { display: block; width: 100%; height: 14px; margin: 2px 0; overflow: visible; }
.better { --verdict: var(--better); } .worse { --verdict: var(--worse); }
.open { --verdict: var(--open); }
.difference b, .verdict { color: var(--verdict); }
.whisker { stroke: var(--verdict); stroke-width: 3; stroke-linecap: round; }
.estimate { fill: var(--verdict); } .zero { stroke: var(--muted); stroke-dasharray: 2 2; }

.scroll { overflow-x: auto; margin: 12px 0 0; padding: 4px 16px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 0 8px 20px; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 400; white-space: normal; min-width: 7.5em; }
thead th { font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody tr { border-top: 1px solid var(--rule); }
td small { display: block; color: var(--muted); font-size: 0.8125rem; }

@media screen and (max-width: 759px) {
  figure.card { padding: 12px; }
  .results tr { display: grid; grid-template-columns: repeat(var(--columns), minmax(96px, 1fr)); }
  .results th, .results td { padding: 2px 0 8px 8px; text-align: left; }
  .results th:first-child, .results td, .results th:nth-child(2) { padding-left: 0; }
  .results tbody th { grid-column: 1 / -1; padding-top: 8px; color: var(--muted); }
  .results tbody tr { width: max-content; min-width: 100%; }
  .results tbody th { position: sticky; left: 0; justify-self: start; }
  .results thead th:first-child { display: none; }
  td small { font-size: 0.75rem; letter-spacing: -0.01em; }
}

.figures { display: grid; gap: 16px; margin-top: 14px; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; margin-bottom: 10px; }

.problem { margin-top: 18px; }
.prompt, .text, .ending, code {
  font-family: ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', monospace;
  font-size: 0.8125rem; line-height: 1.45;
}
.prompt, .text, .ending { white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { color: var(--muted); margin: 6px 0 12px; max-width: none; }
.traces { display: grid; gap: 18px 26px; }
.trace { min-width: 0; }
.trace header { display: flex; justify-content: space-between; gap: 8px; align-items: baseline; }
.curve { display: block; width: 100%; height: 44px; margin: 6px 0 8px; }
.curve .area { fill: var(--series); opacity: 0.16; }
.curve .line { fill: none; stroke: var(--series); stroke-width: 2; }
.curve .after { fill: none; stroke: var(--series); stroke-width: 1.4; stroke-dasharray: 3 3; }
.curve .frame { stroke: var(--rule); }
ol { list-style: none; margin: 0; padding: 0; }
.episode {
  display: grid; grid-template-columns: 52px 2.7em 1fr; gap: 0 8px; align-items: start;
  padding: 3px 0; border-top: 1px solid var(--rule);
}
.episode .bar { width: 52px; height: 10px; margin-top: 5px; }
.bar .track { fill: var(--track); } .bar .level { fill: var(--series); }
.bar .before { stroke: var(--text); stroke-width: 1.5; }
.rate {
  font-size: 0.8125rem; line-height: 1.45; text-align: right; font-variant-numeric: tabular-nums;
}
.late .text { color: var(--muted); } .late .level { opacity: 0.5; }
.start .text { color: var(--muted); font-family: inherit; font-style: italic; }
.tag {
  font: 600 0.6875rem/1.3 system-ui, sans-serif; border: 1px solid currentColor; border-radius: 4px;
  padding: 0 4px; margin-left: 6px; white-space: nowrap; color: var(--muted);
}
.tag.found { color: var(--better); } .tag.repeated, .tag.cut { color: var(--worse); }
.ending { border-top: 1px solid var(--rule); padding-top: 6px; }
footer { margin-top: 44px; border-top: 1px solid var(--rule); padding-top: 14px; }

@media (min-width: 760px) {
  main { padding: 44px 32px 72px; }
  h1 { font-size: 2rem; }
  .differences { grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures figure:last-child:nth-child(odd) {
    grid-column: 1 / -1; display: grid; grid-template-columns: 1fr 1fr; gap: 24px;
  }
  .figures figure.wide, .figures figure.wide:last-child:nth-child(odd) {
    grid-column: 1 / -1; display: block;
  }
  .results { table-layout: fixed; }
  .results th:first-child { width: 16em; }
  .traces { grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); }
  .card { padding: 20px; }
  .scroll { padding: 4px 20px; }
}
@media print {
  :root { --ground: #fff; --text: #000; --muted: #444; --rule: #bbb; }
  body { font-size: 9.5pt; }
  main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .card { padding: 10pt; border-radius: 0; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures figure.wide { grid-column: 1 / -1; }
  .differences { grid-template-columns: 1fr 1fr; }
  .results { table-layout: fixed; }
  .results th:first-child { width: 14em; }
  .traces { grid-template-columns: repeat(auto-fit, minmax(118pt, 1fr)); gap: 10pt 14pt; }
  .prompt, .text, .ending, code, .rate, .small, figcaption, footer { font-size: 7.5pt; }
  .episode { grid-template-columns: 30pt 2.7em 1fr; gap: 0 4pt; }
  .episode .bar { width: 30pt; margin-top: 2pt; }
  h1 { font-size: 18pt; } h2 { font-size: 13pt; margin-top: 20pt; } .headline { font-size: 11pt; }
  th, td { padding: 3pt 0 2pt 12pt; } .trace h3 { font-size: 9pt; } td small { font-size: 7.5pt; }
  .scroll { overflow: visible; }
  h2, h3, h2 + p { break-after: avoid; }
  p { break-inside: avoid; } .tag { font-size: 6.5pt; } .differences h3 { font-size: 10pt; }
  figure, .differences .card, .problem, .trace, tr, .scroll { break-inside: avoid; }
  @page { margin: 16mm 14mm; }
}
"""
