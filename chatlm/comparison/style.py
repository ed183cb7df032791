"""The look of the page: paper, ink and one seal red, as the chat page has them, light and dark.

In: nothing. Out: `CSS`. The choice of rows is made by radio buttons and sibling selectors alone.
"""

CSS = """
:root {
  color-scheme: light dark;
  --paper: light-dark(#fbfaf7, #1a1917); --card: light-dark(#fff, #23211e);
  --line: light-dark(#e5e0d6, #38342f); --ink: light-dark(#26221d, #ebe6dc);
  --soft: light-dark(#6f685d, #a8a094); --seal: light-dark(#b23a26, #e0735d);
  --win: light-dark(#2c7355, #6cc39b); --loss: light-dark(#b23a26, #e0735d);
  --tie: light-dark(#cfc8ba, #575048); --amber: light-dark(#fbf3df, #332a18);
  --amber-line: light-dark(#e6d3a3, #5c4a24);
  --sans: "PingFang SC", "HarmonyOS Sans SC", "Microsoft YaHei", "Noto Sans CJK SC",
    "Source Han Sans SC", "WenQuanYi Micro Hei", system-ui, sans-serif;
  --serif: "Songti SC", "Noto Serif CJK SC", "Source Han Serif SC", "STSong", "SimSun", serif;
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.7 var(--sans);
  overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; text-autospace: normal;
}
main { max-width: 78rem; margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; }
.kicker, h2 small, th small, .who small { color: var(--soft); font-weight: normal; }
.kicker { margin: 0; letter-spacing: .08em; font-size: .85rem; }
h1 { font: 600 1.7rem/1.35 var(--serif); margin: .2rem 0 .4rem; }
h2 { font: 600 1.2rem/1.4 var(--serif); margin: 2.6rem 0 .8rem; }
h2 small { font-size: .85rem; margin-left: .5em; }
p { margin: .3rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.cards { display: grid; gap: 1rem; margin-top: 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.1rem 1.3rem; min-width: 0; }
.card h2 { margin: 0 0 .5rem; }
.big { font: 600 2rem/1.2 var(--serif); font-variant-numeric: tabular-nums; }
.big small { font: .9rem var(--sans); color: var(--soft); margin-left: .4em; }
.better .big, .up { color: var(--win); }
.worse .big, .down { color: var(--loss); }
.split { display: flex; gap: 2px; height: .7rem; margin: .9rem 0 .35rem; border-radius: 4px;
  overflow: hidden; }
.split i { display: block; min-width: 0; }
.split .win, .dot.win { background: var(--win); }
.split .loss, .dot.loss { background: var(--loss); }
.split .tie, .dot.tie { background: var(--tie); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .9rem; }
.dot { display: inline-block; width: .65em; height: .65em; border-radius: 50%; margin-right: .4em; }
.range { position: relative; height: 1.6rem; margin: .7rem 0 .1rem; color: var(--soft);
  background: linear-gradient(var(--line), var(--line)) center / 100% 2px no-repeat; }
.range b, .range i, .range u { position: absolute; top: 50%; transform: translateY(-50%); }
.range b { left: 50%; width: 2px; height: 100%; background: var(--soft); }
.range i { height: 6px; border-radius: 3px; background: currentColor; }
.range u { width: 14px; height: 14px; margin-left: -7px; border-radius: 50%;
  background: currentColor; border: 3px solid var(--card); }
.better .range { color: var(--win); } .worse .range { color: var(--loss); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 12px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem 1rem; text-align: right; border-top: 1px solid var(--line);
  white-space: nowrap; }
thead th { border-top: 0; } th:first-child { text-align: left; font-weight: 500; }
th small { display: block; font-size: .75rem; line-height: 1.3; }
.note { background: var(--amber); border: 1px solid var(--amber-line); border-radius: 10px;
  padding: .6rem 1rem; margin: .8rem 0; font-size: .92rem; }
.pick { position: absolute; opacity: 0; pointer-events: none; }
.tabs { display: flex; flex-wrap: wrap; gap: .5rem; margin-bottom: 1rem; }
.tabs label { border: 1px solid var(--line); border-radius: 99px; padding: .25rem .95rem;
  cursor: pointer; background: var(--card); font-size: .92rem; }
#all:checked ~ .tabs [for=all], #win:checked ~ .tabs [for=win], #tie:checked ~ .tabs [for=tie],
#loss:checked ~ .tabs [for=loss] { background: var(--ink); color: var(--paper);
  border-color: var(--ink); }
.pick:focus-visible ~ .tabs { outline: 2px solid var(--seal); outline-offset: 4px; }
#win:checked ~ .row:not(.win), #tie:checked ~ .row:not(.tie),
#loss:checked ~ .row:not(.loss) { display: none; }
.row { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  margin: 0 0 1rem; padding: 1rem 1.3rem 1.2rem; border-left: 4px solid var(--line); }
.row.win { border-left-color: var(--win); } .row.loss { border-left-color: var(--loss); }
.ask { display: flex; gap: 1rem; justify-content: space-between; align-items: start; }
.ask p { font-weight: 700; margin: 0; } .text { white-space: pre-wrap; }
.gain { white-space: nowrap; font-variant-numeric: tabular-nums; font-size: .92rem; }
.said { display: grid; gap: 1rem 1.6rem; margin-top: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.said > div { min-width: 0; border-top: 2px solid var(--line); padding-top: .5rem; }
.said > .tuned { border-top-color: var(--seal); }
.who { margin: 0; font-size: .85rem; font-weight: 600; }
.said .text { margin: .3rem 0; font-size: .96rem; }
.tag { display: inline-block; font-size: .75rem; color: var(--soft); margin-right: .8em;
  font-variant-numeric: tabular-nums; }
.tag.bad { color: var(--loss); }
details { margin-top: 1rem; } summary { cursor: pointer; color: var(--soft); }
details > .row { margin-top: 1rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
code { font: .85em ui-monospace, "DejaVu Sans Mono", monospace; }
@media (max-width: 36rem) { th, td { padding: .4rem .5rem; font-size: .88rem; }
  th:first-child { white-space: normal; min-width: 5.5rem; } .card, .row { padding-inline: 1rem; } }
@media print { .tabs { display: none; } .row { break-inside: avoid; } }
"""
