"""The report page's style sheet."""

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --panel: #fff; --ink: #1d2125; --soft: #59626c; --rule: #d8dce0; --fill: #8f99a3;
  --pass: #17623a; --pass-bg: #eaf5ee; --fail: #a1221e; --fail-bg: #fcefed; --blue: #1f62a8; --orange: #b4520a;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
@media (prefers-color-scheme: dark) { :root { --page: #15181b; --panel: #1c2024; --ink: #e4e7ea; --soft: #a0a9b2; --rule: #363d44;
  --fill: #79838d; --pass: #85d9a6; --pass-bg: #16281d; --fail: #ff9d94; --fail-bg: #321918; --blue: #7db4f0; --orange: #f0a35a } }

* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 var(--sans) }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem }
section { margin: 0 0 2.5rem }
h1 { font-size: 1.125rem; font-weight: 600; color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .5rem; overflow-wrap: anywhere }
p { margin: 0 0 .75rem; max-width: 46rem; overflow-wrap: anywhere }
code { font-family: var(--mono); font-size: .9em; unicode-bidi: isolate }
small { font-size: .8125rem; color: var(--soft) }
dl { margin: 0 }
dt { color: var(--soft); font-size: .8125rem }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
summary { cursor: pointer; color: var(--soft); margin: .5rem 0 }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px }

.verdict { border: 1px solid; border-left-width: 6px; border-radius: 4px; padding: 1rem 1.25rem }
.verdict h2 { font-size: 1.5rem }
.verdict dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem 1.5rem }
.verdict dd { font-weight: 600 }
.verdict dt { color: inherit }
.verdict small { display: block; font-weight: 400; color: inherit }
.pass { border-color: var(--pass); background: var(--pass-bg) }
.fail { border-color: var(--fail); background: var(--fail-bg) }
.pass h2 { color: var(--pass) }
.fail h2 { color: var(--fail) }
.said { margin: 0; padding-left: 1.25rem; max-width: 46rem; overflow-wrap: anywhere }
.said li { margin: 0 0 .5rem }
.facts { display: grid; gap: .375rem 1.5rem }
.facts div { display: grid; grid-template-columns: 10rem minmax(0, 1fr); align-items: baseline }

svg text { font: 12px var(--sans); fill: var(--soft) }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; font-size: .875rem; margin: 0 0 .5rem }
.legend i, .scale i, .scale b { display: inline-block; width: .75rem; height: .75rem; margin-right: .5rem }
.legend i { vertical-align: -.0625rem }
i.propagated { border: 2px solid var(--blue); border-radius: 50% }
i.isolated { background: var(--orange); border-radius: 50% }
i.reference { background: var(--fill); opacity: .6 }
i.candidate { border: 2px solid var(--blue) }
.wide svg, .narrow svg { display: block; max-width: 100%; height: auto }
.narrow { display: none }
.grid { stroke: var(--rule) }
.allowed { stroke: var(--ink); stroke-dasharray: 5 4 }
line.first { stroke: var(--fail); stroke-width: 1.5 }
svg text.first { fill: var(--fail); font-weight: 600 }
.propagated { stroke: var(--blue); fill: none; stroke-width: 1.5 }
circle.propagated { fill: var(--page) }
circle.isolated { fill: var(--orange) }
.cross { fill: none; stroke-width: 1.5 }
.isolated.cross { stroke: var(--orange) }
.hit { fill: transparent }
.hit:hover { fill: var(--ink); fill-opacity: .09 }

.halves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5rem 2.5rem }
figure { margin: 0 0 1.25rem }
figcaption { font-weight: 600; margin: 0 0 .25rem }
figcaption span { font-weight: 400; font-size: .875rem; color: var(--soft); margin-left: .25rem }
img { display: block; width: 100%; height: auto; image-rendering: pixelated }
.strip img { height: 2.25rem }
.map { display: grid; grid-template-columns: 1.75rem minmax(0, 24rem); column-gap: .375rem }
.map figcaption { grid-column: 1 / -1 }
.map .along { grid-column: 2 }
.frame { position: relative }
.along, .down { display: flex; justify-content: space-between; font-size: .75rem; color: var(--soft) }
.down { flex-direction: column; align-items: end }
.ring, .scale b { border: 2px solid #fff; outline: 2px solid #000; border-radius: 50% }
.ring { position: absolute; width: 1rem; height: 1rem; margin: -.5rem }
.scale { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .5rem; font-size: .8125rem }
.scale span:nth-of-type(n + 3) { margin-left: 1rem }
.scale i.bar { width: 10rem; margin: 0 }
.histogram { display: block; width: 100%; max-width: 30rem; height: auto }
polygon.reference { fill: var(--fill); fill-opacity: .6 }
polygon.candidate { fill: none; stroke: var(--blue); stroke-width: 1.5 }

.box { overflow-x: auto; border: 1px solid var(--rule); border-radius: 4px; background: var(--panel); max-width: 100% }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; white-space: nowrap; width: 100% }
td, th { padding: .3125rem .75rem; text-align: left; font-weight: 400; border-bottom: 1px solid var(--rule) }
tbody tr:last-child > * { border-bottom: 0 }
thead th { color: var(--soft); font-size: .8125rem }
.n, .moments td, .moments th + th { text-align: right }
.layers th:first-child { position: sticky; left: 0; background: var(--panel) }
.layers .wrong > *, .layers .wrong th:first-child { background: var(--fail-bg) }
.wrong .v, .over { color: var(--fail); font-weight: 600 }
.inherited .v { color: var(--fail) }
.right .v { color: var(--pass) }
#only { margin: 0 .5rem .75rem 0 }
#only:checked ~ .box tbody tr:not(.wrong) { display: none }

@media (max-width: 45rem) {
  .halves { grid-template-columns: minmax(0, 1fr) }
  .wide { display: none }
  .narrow { display: block }
  .facts div { grid-template-columns: 1fr }
  .verdict { padding: .75rem 1rem }
  .layers th:first-child { max-width: 45vw; overflow: hidden; text-overflow: ellipsis }
}
@media print { .box { overflow: visible } .layers th:first-child { position: static } }
"""
