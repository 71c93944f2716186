"""report.html: one self-contained page of what report.json says, with plots and completions side by side."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from preceptor.demo import plots
from preceptor.demo.world import PROMPT_END

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:#0f172a;background:#f8fafc;margin:0}
main{max-width:1120px;margin:0 auto;padding:24px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 10px}p.sub{color:#475569;margin:0 0 18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px}
.tile{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}.tile span{color:#475569;font-size:13px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:14px}
figure{background:#fff;border:1px solid #e2e8f0;border-radius:10px;margin:0;padding:10px 14px}
figcaption{font-weight:600;margin-bottom:4px}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid #e2e8f0;border-radius:10px}
th,td{text-align:left;padding:7px 10px;border-top:1px solid #e2e8f0;vertical-align:top}th{border-top:0;color:#475569}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.yes{color:#047857;font-weight:600}.no{color:#b91c1c;font-weight:600}
@media(max-width:600px){.grid{grid-template-columns:1fr}}
"""


def render_report(report: Mapping[str, Any]) -> str:
    """The page. `report` is report.json's content."""
    parts = [
        _head(report),
        _tiles(report),
        _checks(report["checks"]),
        _curves(report),
        _busy(report),
        _side_by_side(report["before_after"]),
        _tables(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Preceptor demo report</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    run = report["run"]
    return (
        "<h1>From an untrained model to a policy tuned on rankings</h1>"
        f'<p class="sub">Profile {escape(run["profile"])}, seed {run["seed"]}, labels {escape(run["labels"])}, '
        f"rl {'on' if run['rl'] else 'off'}. {escape(report['environment']['summary'])}. "
        "Everything on this page was measured in this run.</p>"
    )


def _tiles(report: Mapping[str, Any]) -> str:
    gold = report["gold"]
    tiles = [
        (f"{gold['gain_sd']:+.2f} SD", "gold gained over the sft policy"),
        (f"{gold['sft']['mean']:.2f} → {gold['final']['mean']:.2f}", "gold on held-out prompts"),
        (f"{report['rankings']['total']:,}", "rankings in force"),
        (f"{report['policy_versions']}", "policy versions"),
        (f"{report['diversity']['final']['distinct']:.0%}", "distinct completions at the end"),
        (f"{report['seconds']['total'] / 60:.1f} min", "from the first stage to the last"),
    ]
    cells = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(n)}</span></div>' for v, n in tiles)
    return f'<div class="tiles">{cells}</div>'


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td>{escape(c["name"])}</td><td class="n">{_measured(c["value"])}</td>'
        f'<td class="n">{escape(c["limit"])}</td>'
        f'<td class="{"yes" if c["holds"] else "no"}">{"holds" if c["holds"] else "does not hold"}</td></tr>'
        for c in checks
    )
    return (
        f"<h2>What must hold</h2><table><tr><th>figure</th><th>measured</th><th>limit</th><th></th></tr>{rows}</table>"
    )


def _curves(report: Mapping[str, Any]) -> str:
    gold, curves = report["gold"], report["curves"]
    final = {**gold["final"], "policy_version": gold["final_policy_version"]}
    figures = [("Gold score", plots.gold_plot(gold["by_policy_version"], gold["sft"], final))]
    switches = curves["reward_model_switches"]
    if curves["proxy_reward"]:
        figures += [
            ("Proxy reward (what PPO sees)", plots.curve_plot(curves["proxy_reward"], "score", 1, switches)),
            ("KL to the sft policy (k1, per completion)", plots.curve_plot(curves["kl_k1"], "nats", 3, switches)),
        ]
    figures.append(("Reward models", plots.accuracy_plot(report["reward_models"])))
    return "<h2>Learning</h2>" + _grid(figures)


def _busy(report: Mapping[str, Any]) -> str:
    series, stages = report["busy_over_time"], report["stage_spans"]
    if not series:
        return ""
    width = max((end for _, _, end in stages), default=1.0)
    return (
        "<h2>What each process was busy with</h2><figure>"
        + plots.busy_plot(series, [(n, b, e) for n, b, e in stages], width)
        + "</figure>"
    )


def _side_by_side(pairs: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(p['prompt'].removesuffix(PROMPT_END))}</td>"
        f"<td>{escape(p['before'])}</td><td class='n'>{p['before_gold']:.1f}</td>"
        f"<td>{escape(p['after'])}</td><td class='n'>{p['after_gold']:.1f}</td></tr>"
        for p in pairs
    )
    head = "<tr><th>prompt</th><th>before (sft)</th><th>gold</th><th>after</th><th>gold</th></tr>"
    return f"<h2>The same held-out prompts, before and after</h2><table>{head}{rows}</table>"


def _tables(report: Mapping[str, Any]) -> str:
    groups = {
        "Seconds by stage": report["seconds"],
        "Busy share of each process": report["busy"],
        "Groups": report["groups"],
        "Attempts": report["attempts"],
        "Environment": {k: v for k, v in report["environment"].items() if k != "summary"},
    }
    tables = []
    for title, values in groups.items():
        rows = "".join(
            f"<tr><td>{escape(str(k))}</td><td class='n'>{escape(_short(v))}</td></tr>" for k, v in values.items()
        )
        tables.append(f"<div><h2>{escape(title)}</h2><table>{rows}</table></div>")
    return f'<div class="grid">{"".join(tables)}</div>'


def _grid(figures: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<figure><figcaption>{escape(t)}</figcaption>{svg}</figure>" for t, svg in figures)
    return f'<div class="grid">{cells}</div>'


def _measured(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
