extension Page {
    /// Everything about looks; colours of series are `--s`.
    static var style: Markup {
        """
        \(layout)
        \(Ramp.rules(dark: false))
        @media (prefers-color-scheme: dark) { \(Ramp.rules(dark: true)) }
        """
    }

    private static let layout: Markup = """
        :root {
          color-scheme: light dark;
          --paper: #fdfdfc; --raised: #f5f5f2; --ink: #1d1f23; --soft: #5d626b; --rule: #dcdcd6;
          --c0: #8b9099; --c1: #2563b0; --c2: #c2570c; --c3: #0f766e; --c4: #7c3aad;
          --c5: #b0324f; --c6: #5b7a12; --other: #767b84;
        }
        @media (prefers-color-scheme: dark) {
          :root {
            --paper: #16181b; --raised: #1f2226; --ink: #e4e5e7; --soft: #a0a5ae; --rule: #363a40;
            --c0: #8b919c; --c1: #6aa7f0; --c2: #f0984a; --c3: #45bfae; --c4: #b794f0;
            --c5: #f07a97; --c6: #a3c14a; --other: #a2a7b0;
          }
        }
        .s0 { --s: var(--c0); } .s1 { --s: var(--c1); } .s2 { --s: var(--c2); }
        .s3 { --s: var(--c3); } .s4 { --s: var(--c4); } .s5 { --s: var(--c5); }
        .s6 { --s: var(--c6); } .s7 { --s: var(--other); }
        * { box-sizing: border-box; }
        html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
        body {
          margin: 0; background: var(--paper); color: var(--ink);
          font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
          font-variant-numeric: tabular-nums;
        }
        main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
        h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; overflow-wrap: anywhere; }
        h1 { margin: 0 0 .4rem; font-size: 1.75rem; font-weight: 650; letter-spacing: -.01em; }
        h2 { margin: 3rem 0 1rem; font-size: 1.2rem; font-weight: 650; }
        h3 { margin: 1.75rem 0 .5rem; font-size: 1rem; font-weight: 600; }
        h4 { margin: 0; font-size: .8125rem; font-weight: 600; }
        p { margin: .5rem 0; max-width: 44rem; }
        ul { margin: 0; padding: 0; list-style: none; }
        dl, dd { margin: 0; }
        code { font: .8125em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
        code, .plain, .record dd { overflow-wrap: anywhere; }
        .note, caption, dt, dd { color: var(--soft); font-size: .8125rem; font-weight: 400; }
        .hidden {
          position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
          white-space: nowrap;
        }
        .swatch {
          display: inline-block; width: .7em; height: .7em; margin-right: .5em;
          border-radius: 2px; background: var(--s);
        }
        .legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .8125rem; }
        .card {
          margin: 0 0 1rem; padding: 1rem 1.25rem; background: var(--raised);
          border-left: 3px solid var(--s); border-radius: 2px;
        }
        .card > h3 { margin: 0; } .card > .note { margin: 0; }
        .ledger { display: flex; flex-wrap: wrap; gap: 1.25rem 3.5rem; margin-top: 1rem; }
        .ledger h4 { padding-bottom: .25rem; border-bottom: 1px solid var(--rule); }
        .ledger dl { display: flex; flex-wrap: wrap; gap: .75rem 2rem; margin-top: .6rem; }
        .big { color: var(--ink); font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
        .scroll { overflow-x: auto; margin: .75rem 0; }
        .scroll:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
        table { width: 100%; border-collapse: collapse; font-size: .875rem; }
        caption { padding: 0 0 .4rem; text-align: left; }
        caption > span { display: block; max-width: min(44rem, 100vw - 2.5rem); }
        th, td { padding: .4rem .5rem; text-align: left; vertical-align: baseline; }
        th:first-child { padding-left: 0; }
        tbody th { min-width: 8.5rem; }
        .bars tbody th { min-width: 0; }
        thead th { color: var(--soft); font-size: .75rem; font-weight: 500; }
        thead { border-bottom: 1px solid var(--ink); }
        tbody tr { border-bottom: 1px solid var(--rule); }
        tbody th { font-weight: 500; }
        .figures td, .figures thead th + th { text-align: right; white-space: nowrap; }
        .bars tbody tr { border: 0; } .bars tr.first { border-top: 1px solid var(--rule); }
        .bars tbody tr td { padding-top: .05rem; padding-bottom: .05rem; font-size: .8125rem; }
        .bars tr.first td, .bars tbody th { padding-top: .45rem; }
        .bars td, .bars th { white-space: nowrap; }
        .bars td:nth-last-child(2), .bars td:nth-last-child(3),
        .bars thead th:nth-last-child(2), .bars thead th:nth-last-child(3) { text-align: right; }
        .bars .wide { width: 60%; min-width: 5rem; }
        .bytes .wide { min-width: 9rem; }
        .bars svg { display: block; } .bars rect { fill: var(--s); }
        .panels {
          display: grid; gap: 1.25rem 1.5rem; margin: 1rem 0 1.5rem;
          grid-template-columns: repeat(auto-fill, minmax(14.5rem, 1fr));
        }
        figure { margin: 0; } figure svg { display: block; width: 100%; height: auto; }
        figcaption { font-size: .8125rem; font-weight: 600; overflow-wrap: anywhere; }
        svg text { fill: var(--soft); font-size: 10px; }
        .grid { stroke: var(--rule); stroke-width: 1; }
        figure path { fill: none; stroke: var(--s); stroke-width: 1.5; stroke-linejoin: round; }
        .s2 path { stroke-dasharray: 6 2; } .s3 path { stroke-dasharray: 2 2; }
        .s4 path { stroke-dasharray: 8 2 2 2; } .s5 path { stroke-dasharray: 4 3; }
        .s6 path { stroke-dasharray: 1 3; }
        circle { fill: var(--s); }
        .verdict { font-size: 1.05rem; }
        .mark { color: var(--c1); font-size: .8125rem; font-weight: 600; }
        .tiles { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: .75rem 0 1rem; }
        .maps { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem 0; }
        .map { min-width: 0; max-width: 100%; } .map svg { display: block; }
        .map rect[class^="s"] { fill: var(--s); }
        .ghost, .bars .ghost, .map .ghost { fill: none; stroke: var(--rule); }
        .map .ink { fill: var(--soft); } .map .vx { fill: none; stroke: var(--rule); }
        .map .on { fill: var(--paper); font-size: 8px; }
        .map .tight .on, .map .tight g > text { font-size: 7.5px; }
        .map .u { fill: var(--ink); } .map .w { fill: var(--paper); }
        .bars .outline { fill: none; stroke: var(--soft); }
        .equal { stroke: var(--soft); stroke-dasharray: 3 3; }
        .panels.wide { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
        .chart td:last-child, .chart thead th:last-child { text-align: right; }
        .chart td:nth-last-child(2), .chart thead th:nth-last-child(2) { text-align: left; }
        .figures .words.words { min-width: 12rem; text-align: left; white-space: normal; }
        abbr { text-decoration: none; }
        details { margin: .75rem 0; } summary { cursor: pointer; font-size: .875rem; }
        .columns {
          display: grid; gap: 1rem; align-items: start;
          grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
        }
        .columns .card { margin: 0; }
        .text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
        p.text { margin: .5rem 0 .75rem; }
        blockquote { margin: 0 0 1rem; padding-left: 1rem; border-left: 1px solid var(--rule); }
        h3.note { margin-bottom: .4rem; }
        .record { display: grid; gap: .3rem 1.5rem; margin: .5rem 0 1rem; }
        .record > div { display: grid; grid-template-columns: 9rem 1fr; gap: 1rem; }
        .record dd { color: var(--ink); }
        @media (max-width: 34rem) {
          main { padding: 1.5rem 1rem 3rem; } h1 { font-size: 1.4rem; }
          .record > div { grid-template-columns: 1fr; gap: 0; }
          .card { padding: .85rem 1rem; } .ledger { gap: 1rem; }
        }
        @media print { .scroll { overflow: visible; } .card { break-inside: avoid; } }
        """
}
