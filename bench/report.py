#!/usr/bin/env python3
"""report.py: runs every bench and writes build/bench/report.json and report.html.

    bench/report.py [--quick [--peers]] [NAME...]
                                             run the benches and write both files; with names only
                                             these, and the others stay as they were; --peers:
                                             when quick, also beside those who take long, as
                                             often as ours, and across the slow links
    bench/report.py --from FILE              write report.html again, from a report.json
    bench/report.py --svg BENCH [--against NAME] [--from F]
                                             one bench's plot on stdout
    bench/report.py --readme [--from F]      the README's tables on stdout
    bench/report.py --keep                   keeps the last report: bench/report.json, the plot
                                             beside it, and the tables in the README

The page is one file without scripts: a table and, where something was measured beside ours, a plot
of ratios for each bench; light or dark as the reader's system is. Nothing but Python is needed."""
import html
import json
import math
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUT = os.path.join(ROOT, "build", "bench")
STORED = os.path.join(OUT, "report.json")

# What a bench is about, in the order of the page; one that is not here comes last.
TITLES = {
    "mount": ("A mounted folder", "beside direct access and other file systems"),
    "field": ("By place, and many at once", "beside the bound that nothing passes"),
    "files": ("Copies and SFTP", "beside scp, sftp and rsync"),
    "link": ("The emulated link", "what it measures of itself, beside what it was asked for "
                                  "(dashed)"),
    "wan": ("A mount across the link", "beside plain TCP and sshfs"),
    "cache": ("Caches", "hits, misses, eviction"),
    "cached": ("The caching backend", "beside the memory backend; round trips counted"),
    "chunk": ("The wire", "beside a bare socket that moves the same bytes"),
    "tls": ("The wire, encrypted", "beside OpenSSL alone"),
    "server": ("A thousand tenants", "one of them flooding"),
    "backend": ("Backends", "beside plain system calls"),
    "pool": ("The pool", ""),
    "tables": ("Tables", "handles, mounts, tokens"),
    "registry": ("The registry", "beside bare LMDB calls that do the same work"),
    "session": ("Sessions", "saves, loads, search"),
    "blake3": ("BLAKE3", "beside OpenSSL's hashes"),
}
CHECKS = ("link",)  # of the benches themselves: neither better nor worse than what it is beside

# ---- running -------------------------------------------------------------------------------------


def output_of(*command):
    """The first line that a command prints, or "" if there is no such command."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""


def line_of(path, pattern):
    try:
        with open(path) as f:
            found = re.search(pattern, f.read(), re.M)
    except OSError:
        return ""
    return found.group(1).strip() if found else ""


def describe_machine(quick):
    memory = line_of("/proc/meminfo", r"^MemTotal:\s+(\d+)")
    versions = {"compiler": output_of("cc", "--version")}
    for library in ("fuse3", "lmdb", "sqlite3", "openssl", "libzstd"):
        versions[library] = output_of("pkg-config", "--modversion", library)
    versions["sshfs"] = output_of("sh", "-c", "sshfs -V 2>&1 | sed -n 's/SSHFS version //p'")
    versions["ssh"] = output_of("ssh", "-V").split(",")[0]
    changed = output_of("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": output_of("git", "describe", "--always") + (" and changes" if changed else ""),
        "version": line_of(os.path.join(ROOT, "tests/blocks/common.h"),
                           r'^#define FSB_VERSION "(.*)"'),
        "machine": line_of("/proc/cpuinfo", r"^model name\s*:\s*(.*)") or os.uname().machine,
        "cores": os.cpu_count(),
        "memory": "%.0f GiB" % (int(memory) / 1048576) if memory else "",
        "system": line_of("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
        "kernel": os.uname().release,
        "load": "%.1f" % os.getloadavg()[0],
        "quick": quick,
        "versions": {k: v for k, v in versions.items() if v},
    }


def progress(text, last=False):
    """One line that changes on a terminal; elsewhere only what is final."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K" + text + ("\n" if last else ""))
        sys.stderr.flush()
    elif last:
        print(text, file=sys.stderr)


def run_bench(name, command, place):
    """Runs one bench; returns what the report keeps of it."""
    began, rows, said = time.time(), [], []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        try:
            row = json.loads(line)
        except ValueError:
            said.append(line.strip())
            continue
        rows.append(row)
        progress("%s %-10s %4d s  %s" % (place, name, time.time() - began, row.get("case", "")))
    status = process.wait()
    seconds = time.time() - began
    progress("%s %-10s %4d s  %d rows%s" % (place, name, seconds, len(rows),
             "" if status == 0 else ", exit status %d" % status), True)
    return {"name": name, "seconds": round(seconds, 1), "status": status,
            "quick": "--quick" in command, "rows": rows, "said": said[:5]}


def run_all(quick, wanted):
    found = sorted(f[6:] for f in os.listdir(OUT) if re.fullmatch(r"bench_[a-z0-9_]+", f))
    commands = {name: [os.path.join(OUT, "bench_" + name)] for name in found}
    commands["link"] = [os.path.join(OUT, "link"), "--check"]
    if quick and not os.environ.get("BENCH_PEERS"):
        commands["link"] += ["lan", "wan-good"]  # the links that the other benches then use
    for name in wanted:
        if name not in commands:
            sys.exit("report: there is no bench '%s'; there are: %s" % (name, " ".join(commands)))
    names = [n for n in list(TITLES) + found if n in commands and (not wanted or n in wanted)]
    names = list(dict.fromkeys(names))
    about, done = describe_machine(quick), {}
    if wanted:
        done = {b["name"]: b for b in read_report(STORED, {"benches": []})["benches"]}
    for i, name in enumerate(names):
        command = commands[name] + ["--json"] + (["--quick"] if quick else [])
        done[name] = run_bench(name, command, "[%d/%d]" % (i + 1, len(names)))
    order = list(dict.fromkeys(list(TITLES) + found))
    benches = sorted(done.values(), key=lambda b: order.index(b["name"]))
    about["quick"] = any(b.get("quick") for b in benches)
    return {"about": about, "benches": benches}


def read_report(path, otherwise=None):
    try:
        with open(path) as f:
            return json.load(f)
    except (OSError, ValueError) as error:
        if otherwise is None:
            sys.exit("report: no report to read: %s; run make bench first" % error)
        return otherwise

# ---- numbers -------------------------------------------------------------------------------------


def number(value, count=3):
    """The digits that count: 0.123, 12.3, 1,230."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    digits = max(0, count - 1 - math.floor(math.log10(abs(value))))
    text = "{:,.{}f}".format(value, min(digits, 6)) if digits else "{:,.0f}".format(value)
    return text


def short_number(value):
    """What stands beside an axis: 940, 12.3 k, 4.56 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 10 * size:
            return number(value / size) + letter
    return number(value)


def times(ratio):
    return "×" + number(ratio, 2)


def escape(text):
    return html.escape(str(text if text is not None else ""))


def ratio_of(row):
    ratio = row.get("ratio")
    return ratio if isinstance(ratio, (int, float)) and ratio > 0 and row.get("against") else None


def theirs_of(row):
    """The other's value; if the row has it not, from the ratio: less is better but for a rate."""
    ratio, value = ratio_of(row), row.get("value")
    if row.get("theirs") or not ratio or not value:
        return row.get("theirs")
    rate = "/s" in row["unit"] or row["unit"] == "IOPS"
    return value / ratio if rate else value * ratio

# ---- plots ---------------------------------------------------------------------------------------

PLOT_STYLE = """
.plot text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--ink)}
.plot .peer,.plot .tick{fill:var(--soft)} .plot .tick{font-size:11px}
.plot .head{font-weight:600} .plot .value{font-variant-numeric:tabular-nums}
.plot .grid{stroke:var(--line);stroke-width:1} .plot .even{stroke:var(--soft);stroke-width:1}
.plot .good{fill:var(--good)} .plot .bad{fill:var(--bad)}
.plot .spread{stroke:var(--ink);stroke-width:1;opacity:.45}
.plot .curve{fill:none;stroke:var(--good);stroke-width:2;stroke-linejoin:round}
.plot .nominal{fill:none;stroke:var(--bad);stroke-width:1.5;stroke-dasharray:4 3}
"""
LIGHT = "--paper:#fff;--ink:#1d2328;--soft:#68727c;--line:#e4e7ea;--good:#2f7a9e;--bad:#c2703d"
DARK = "--paper:#14181b;--ink:#e3e6e8;--soft:#8f9aa3;--line:#2a3136;--good:#5fb0d3;--bad:#e0986a"

WIDE, LEFT, RIGHT, ROW = 880, 430, 70, 22


def scale_of(ratios):
    """Powers of two that hold them all, one step at least on either side of 1."""
    low = min(-1, math.floor(math.log2(min(ratios)) - .05))
    high = max(1, math.ceil(math.log2(max(ratios)) + .05))
    return low, high


def tick_text(power):
    return "×%d" % 2 ** power if power >= 0 else "×1/%d" % 2 ** -power


def bar(x, y, row, ratio, left):
    """From 1 to the ratio, the spread as a whisker over its end, the ratio behind it."""
    begin, end = x(1), x(ratio)
    out = ['<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="12" rx="1.5"/>' %
           ("good" if ratio >= 1 else "bad", min(begin, end), y - 6, max(1, abs(end - begin)))]
    spread = min(row.get("spread") or 0, 1.6) / 2
    if spread > 0.02:
        out.append('<line class="spread" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>' %
                   (max(left, x(ratio * (1 - spread))), min(WIDE - RIGHT, x(ratio * (1 + spread))),
                    y, y))
    out.append('<text class="value" x="%d" y="%.1f" text-anchor="end">%s</text>' %
               (WIDE - 4, y + 4, times(ratio)))
    return out


def short(text, most):
    return text if len(text) <= most else text[:most - 1] + "…"


def plot_ratios(bench):
    """Bars to either side of 1 on a logarithmic axis; cases that come several times are named
    once. "" if nothing was measured beside ours."""
    rows = [r for r in bench["rows"] if ratio_of(r)]
    if not rows or bench["name"] in CHECKS:
        return ""
    low, high = scale_of([ratio_of(r) for r in rows])
    step = max(1, math.ceil((high - low) / 8))
    high_px, top = len(rows) * ROW + 58, 34
    unit = (WIDE - LEFT - RIGHT) / (high - low)

    def x(ratio):
        return LEFT + (math.log2(max(ratio, 1e-6)) - low) * unit

    out = ['<svg class="plot" viewBox="0 0 %d %d" role="img" xmlns="http://www.w3.org/2000/svg">' %
           (WIDE, high_px), "<title>%s: ratios</title>" % escape(TITLES.get(bench["name"],
                                                                [bench["name"]])[0]),
           '<text class="peer" x="%.1f" y="14" text-anchor="end">← worse</text>' % (x(1) - 8),
           '<text class="peer" x="%.1f" y="14">better →</text>' % (x(1) + 8)]
    bottom = top + len(rows) * ROW
    for power in range(low, high + 1):
        if power % step:
            continue
        at = x(2.0 ** power)
        out.append('<line class="%s" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>' %
                   ("even" if power == 0 else "grid", at, at, top - 10, bottom))
        out.append('<text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>' %
                   (at, bottom + 16, tick_text(power)))
    before = None
    for i, row in enumerate(rows):
        y = top + i * ROW + ROW / 2 - 4
        if row["case"] != before:
            out.append('<text x="0" y="%.1f">%s</text>' % (y + 4, escape(short(row["case"], 44))))
            if before is not None:
                out.append('<line class="grid" x1="0" x2="%d" y1="%.1f" y2="%.1f"/>' %
                           (LEFT - 8, y - ROW / 2, y - ROW / 2))
        before = row["case"]
        out.append('<text class="peer" x="%d" y="%.1f" text-anchor="end">%s</text>' %
                   (LEFT - 12, y + 4, escape(short(row["against"], 24))))
        out += bar(x, y, row, ratio_of(row), LEFT)
    return "\n".join(out + ["</svg>"])


def plot_lines(title, unit, against, ours, theirs, ticks):
    """One small plot: ours and, dashed, the other's; points are (0 to 1, value), values are on a
    logarithmic axis; ticks: where along the bottom stands what."""
    wide, high, left, top, bottom = 280, 186, 52, 46, 30
    span = [value for _, value in ours + theirs if value > 0]
    low, most = min(span) * .98, max(span) * 1.02

    def at(share, value):
        part = math.log(max(value, low) / low) / math.log(most / low)
        return left + share * (wide - left - 22), high - bottom - part * (high - top - bottom)

    out = ['<svg class="plot curves" viewBox="0 0 %d %d" role="img" '
           'xmlns="http://www.w3.org/2000/svg">' % (wide, high),
           "<title>%s</title>" % escape(title),
           '<text class="head" x="0" y="13">%s</text>' % escape(short(title, 40)),
           '<text class="peer" x="0" y="29">%s%s</text>' %
           (escape(unit), "; dashed: " + escape(short(against, 30)) if theirs else "")]
    for value in (low / .98, math.sqrt(low * most), most / 1.02):
        y = at(0, value)[1]
        out.append('<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>' %
                   (left, wide - 22, y, y))
        out.append('<text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>' %
                   (left - 6, y + 4, short_number(value)))
    for share, text in ticks:
        out.append('<text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>' %
                   (at(share, low)[0], high - 12, text))
    for name, points in (("nominal", theirs), ("curve", ours)):
        if points:
            out.append('<polyline class="%s" points="%s"/>' % (
                name, " ".join("%.1f,%.1f" % at(*point) for point in points)))
    return "\n".join(out + ["</svg>"])


def plot_latencies(row):
    """How the single measurements are spread: the time below which a share of them lies."""
    def along(values):
        return [(i / (len(values) - 1), v) for i, v in enumerate(values)]

    return plot_lines(row["case"], row["unit"], row["against"], along(row["quantiles"]),
                      along(row.get("their_quantiles", [])),
                      ((0, "least"), (.5, "median"), (1, "most")))


def families(rows):
    """Rows whose cases differ in nothing but their first number, as {(case, unit, against):
    {number: row}}: from three on they are the points of a curve."""
    found = {}
    for row in rows:
        match = re.search(r"(?<![\w.])\d[\d,]*(?= [a-z]|$)", row["case"])
        if match:
            case = row["case"][:match.start()] + "N" + row["case"][match.end():]
            points = found.setdefault((case, row["unit"], row.get("against")), {})
            points[int(match.group().replace(",", ""))] = row
    return {key: points for key, points in found.items() if len(points) > 2}


def plot_scaling(key, points):
    """A value over the number that its case names, both on logarithmic axes."""
    case, unit, against = key
    numbers = sorted(points)
    span = math.log(numbers[-1] / numbers[0]) if numbers[0] else 0
    if not span:
        return ""

    def share(n):
        return math.log(n / numbers[0]) / span

    theirs = [(share(n), theirs_of(points[n])) for n in numbers if theirs_of(points[n])]
    return plot_lines(case, unit, against, [(share(n), points[n]["value"]) for n in numbers],
                      theirs, [(share(n), "{:,}".format(n)) for n in (numbers[0], numbers[-1])])


def standalone(svg):
    style = "<style>svg{%s}@media(prefers-color-scheme:dark){svg{%s}}%s</style>" % (
        LIGHT, DARK, " ".join(PLOT_STYLE.split("\n")))
    return re.sub(r"(<svg[^>]*>)", lambda m: m.group(1) + style, svg, count=1)

# ---- the page ------------------------------------------------------------------------------------

PAGE_STYLE = """
:root{color-scheme:light dark;%s} @media(prefers-color-scheme:dark){:root{%s}}
*{box-sizing:border-box} body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:960px;margin:0 auto;padding:48px 24px 96px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:20px;margin:56px 0 0} .about,.sub{color:var(--soft);margin:0 0 16px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 20px;margin:24px 0;font-size:13px}
dt{color:var(--soft)} dd{margin:0} nav{margin:24px 0;font-size:14px}
nav a{margin-right:16px;white-space:nowrap} a{color:var(--good);text-decoration:none}
a:hover{text-decoration:underline} .key b{font-weight:600}
.scroll{overflow-x:auto} table{border-collapse:collapse;width:100%%;font-size:13px;margin:12px 0}
th{font-weight:600;text-align:left;color:var(--soft);border-bottom:1px solid var(--soft)}
th,td{padding:4px 10px 4px 0;vertical-align:top} td{border-bottom:1px solid var(--line)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.u,.note{color:var(--soft)} .u{white-space:nowrap} .worse{color:var(--bad)}
.failed{border-left:3px solid var(--bad);padding-left:12px}
.plot{width:100%%;height:auto;display:block;margin:16px 0;overflow:visible}
.curve-row{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:8px 24px}
details summary{cursor:pointer;color:var(--soft);font-size:13px}
@media print{details{display:block}}
""" % (LIGHT, DARK)


def about(report):
    a = report["about"]
    machine = ", ".join(str(v) for v in (a["machine"], "%s cores" % a["cores"], a["memory"]) if v)
    versions = "; ".join("%s %s" % (k, v.replace(k + " ", "")) for k, v in a["versions"].items())
    rows = [("Measured", a["date"] + (", quick" if a["quick"] else "")),
            ("fsb", "%s, commit %s" % (a["version"], a["commit"])), ("Machine", machine),
            ("System", "%s, Linux %s" % (a["system"], a["kernel"])),
            ("Load before", a["load"]), ("Versions", versions)]
    return "<dl>%s</dl>" % "".join("<dt>%s<dd>%s" % (k, escape(v)) for k, v in rows)


def table(rows):
    out = ["<div class=scroll><table><thead><tr><th>Case<th class=n>fsb<th>"
           "<th class=n>beside it<th><th class=n>ratio<th class=n>spread<th class=n>n<th>"
           "</thead><tbody>"]
    before = None
    for row in rows:
        ratio, theirs = ratio_of(row), theirs_of(row)
        case, before = ("" if row["case"] == before else row["case"]), row["case"]
        spread = row.get("spread")
        note = row.get("note") or ""
        if "p95" in row:
            note += "%sp95 %s, p99 %s, max %s" % ("; " if note else "", number(row["p95"]),
                                                  number(row["p99"]), number(row["max"]))
        if "their_p99" in row:
            note += "; theirs %s, %s, %s" % tuple(number(row["their_" + k])
                                                  for k in ("p95", "p99", "max"))
        out.append(
            "<tr><td>%s<td class=n>%s<td class=u>%s<td class=n>%s<td class=u>%s"
            '<td class="n%s">%s<td class=n>%s<td class=n>%s<td class=note>%s' %
            (escape(case), number(row["value"]) if case else "",
             escape(row["unit"]) if case else "",
             number(theirs) if theirs else "", escape(row.get("against")),
             " worse" if ratio and ratio < 1 else "", times(ratio) if ratio else "",
             "±%.0f %%" % (50 * spread) if spread else "", row.get("n") or "", escape(note)))
    return "\n".join(out + ["</tbody></table></div>"])


def section(bench):
    title, sub = TITLES.get(bench["name"], (bench["name"], ""))
    out = ['<section><h2 id="%s">%s</h2><p class=sub>%s</p>' %
           (escape(bench["name"]), escape(title), escape(sub) or "&nbsp;")]
    if bench["status"]:
        out.append("<p class=failed>This bench ended with exit status %d.</p>" % bench["status"])
    out += ["<p class=failed>%s</p>" % escape(line) for line in bench.get("said", []) if line]
    out.append(plot_ratios(bench))
    curves = [plot_latencies(r) for r in bench["rows"] if len(r.get("quantiles", [])) > 2]
    curves += [plot_scaling(*family) for family in sorted(families(bench["rows"]).items(), key=str)]
    if curves:
        out.append("<div class=curve-row>%s</div>" % "\n".join(curves))
    if bench["rows"]:
        out.append("<details open><summary>%d rows, %.0f s</summary>%s</details>" %
                   (len(bench["rows"]), bench["seconds"], table(bench["rows"])))
    return "\n".join(out + ["</section>"])


def page(report):
    links = "".join('<a href="#%s">%s</a>' % (escape(b["name"]),
                    escape(TITLES.get(b["name"], (b["name"],))[0])) for b in report["benches"])
    rows = [r for b in report["benches"] for r in b["rows"]]
    ratios = [ratio_of(r) for b in report["benches"] if b["name"] not in CHECKS for r in b["rows"]]
    ratios = [r for r in ratios if r]
    return """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1"><title>fsb: benches</title>
<style>%s%s</style><main><h1>fsb: benches</h1>
<p class=about>%d figures, of these %d beside something else: %d at least as good, %d worse.</p>
%s<nav>%s</nav>
<p class="about key">Each figure is the median of <b>n</b> runs; the <b>spread</b> is half of the
distance from the least to the largest of ours (of single latencies, from the 5th to the 95th
of a hundred), in percent of it. A <b>ratio</b> is ours to the
other's, measured in the same run, above ×1 meaning that ours is better. The axes of ratios are
logarithmic; the whiskers are the spread. Absolute figures are this machine's.</p>
%s</main></html>
""" % (PAGE_STYLE, PLOT_STYLE, len(rows), len(ratios), sum(r >= 1 for r in ratios),
       sum(r < 1 for r in ratios), about(report), links,
       "\n".join(map(section, report["benches"])))

# ---- the README ----------------------------------------------------------------------------------

KEPT = os.path.join(ROOT, "bench", "report.json")
PLOTTED = ("mount", "sshfs")  # the bench whose plot stands in the README, and whom it is beside
MARKS = ("<!-- figures: made by bench/report.py --keep -->", "<!-- end of figures -->")
PEERS = ("sshfs", "sshfs, tuned", "rclone", "glusterfs", "passthrough_ll", "direct")


def short_unit(value, unit):
    """1,234 MiB/s as people write it in a table."""
    if unit == "IOPS" and value >= 10000:
        return number(value / 1000) + " k/s"
    for small, large in (("ns", "us"), ("us", "ms")):
        if unit == small and value >= 10000:
            value, unit = value / 1000, large
    return "%s %s" % (number(value), {"us": "µs", "IOPS": "/s"}.get(unit, unit))


def peers_table(bench):
    """A line a case, a column a contender; the best of what is another file system is bold."""
    cases, seen = {}, set()
    for row in bench["rows"]:
        if row.get("against") in PEERS:
            cases.setdefault(row["case"], {})[row["against"]] = row
            seen.add(row["against"])
    peers = [p for p in PEERS if p in seen]
    out = ["| | fsb | %s |" % " | ".join(peers), "|---|%s" % ("---:|" * (len(peers) + 1))]
    for case, rows in cases.items():
        ours = next(iter(rows.values()))
        best = all((ratio_of(r) or 0) >= 1 for p, r in rows.items() if p not in PEERS[-2:])
        cells = [case, ("**%s**" if best else "%s") % short_unit(ours["value"], ours["unit"])]
        for peer in peers:
            row = rows.get(peer)
            cells.append("%s (%s)" % (short_unit(theirs_of(row), row["unit"]),
                                      times(ratio_of(row))) if row and ratio_of(row) else "")
        out.append("| %s |" % " | ".join(cells))
    return out


def layers_table(report, wanted):
    out = ["| | fsb | beside it | | ratio |", "|---|---:|---|---:|---:|"]
    for bench in report["benches"]:
        for row in bench["rows"]:
            if bench["name"] not in wanted or not ratio_of(row):
                continue
            out.append("| %s | %s | %s | %s | %s |" % (
                row["case"], short_unit(row["value"], row["unit"]), row["against"],
                short_unit(theirs_of(row), row["unit"]), times(ratio_of(row))))
    return out


def readme(report):
    """What stands between the marks: every figure of it is in the report."""
    a = report["about"]
    benches = {b["name"]: b for b in report["benches"]}
    out = ["Measured %s%s at commit %s on %s, %s cores, %s, Linux %s;" % (
               a["date"], " (--quick)" if a["quick"] else "", a["commit"], a["machine"],
               a["cores"], a["system"], a["kernel"]),
           "host and client on one machine, the host's page cache warm, the client cold. In "
           "brackets: how many times", "better fsb is; below ×1 it is worse, and bold is what "
           "none of the other network file systems beats.", "*direct* is the folder itself, "
           "*passthrough_ll* libfuse's example, which reaches it without another process:",
           "bounds more than peers.", ""]
    if "mount" in benches:
        out += peers_table(benches["mount"]) + [""]
    if "wan" in benches:
        out += ["Across an emulated link (round trips, or what part of the link is used):", ""]
        out += layers_table(report, ("wan",)) + [""]
    out += ["Copies, and the stores beside the bare library or system calls that do the same work:",
            ""]
    out += layers_table(report, ("files", "registry", "session"))
    return "\n".join(out)


def keep(report):
    path = os.path.join(ROOT, "README.md")
    with open(path) as f:
        text = f.read()
    begin, end = (text.find(mark) for mark in MARKS)
    if begin < 0 or end < begin:
        sys.exit("report: README.md has no place for figures: %s" % MARKS[0])
    write(path, text[:begin + len(MARKS[0])] + "\n" + readme(report) + "\n" + text[end:])
    write(KEPT, json.dumps(report, indent=None, separators=(",", ":")).replace(
        '{"bench"', '\n{"bench"') + "\n")
    write(KEPT[:-4] + "svg", plot_of(report, *PLOTTED) + "\n")


def plot_of(report, name, against):
    for bench in report["benches"]:
        if bench["name"] == name:
            rows = [r for r in bench["rows"] if not against or r.get("against") == against]
            plot = plot_ratios(dict(bench, rows=rows))
            if plot:
                return standalone(plot)
    sys.exit("report: nothing of '%s' to plot" % name)

# ---- the program ---------------------------------------------------------------------------------


def write(path, text):
    with open(path + ".new", "w") as f:
        f.write(text)
    os.replace(path + ".new", path)


def parse_options(arguments):
    options = {"quick": False, "peers": False, "readme": False, "keep": False, "from": None,
               "svg": None, "against": None, "names": []}
    while arguments:
        a = arguments.pop(0)
        if a in ("--quick", "--peers", "--readme", "--keep"):
            options[a[2:]] = True
        elif a in ("--from", "--svg", "--against") and arguments:
            options[a[2:]] = arguments.pop(0)
        elif a == "--help":
            print(__doc__)
            sys.exit(0)
        elif a.startswith("-"):
            print("report: %s is no option; try --help" % a, file=sys.stderr)
            sys.exit(2)
        else:
            options["names"].append(a)
    return options


def main():
    options = parse_options(sys.argv[1:])
    read = options["from"] or options["svg"] or options["readme"] or options["keep"]
    if read:
        report = read_report(options["from"] or STORED)
    if options["svg"]:
        print(plot_of(report, options["svg"], options["against"]))
        return 0
    if options["readme"]:
        print(readme(report))
        return 0
    if options["keep"]:
        keep(report)
        return 0
    if options["peers"]:
        os.environ["BENCH_PEERS"] = "1"
    if not read:
        report = run_all(options["quick"], options["names"])
        write(STORED, json.dumps(report, indent=1))
    write(os.path.join(OUT, "report.html"), page(report))
    failed = [b["name"] for b in report["benches"] if b["status"]]
    print("report: build/bench/report.html" + (", failed: " + " ".join(failed) if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
