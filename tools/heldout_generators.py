"""Generators of held-out documents. Their topics, templates and word lists differ from calibration_generators.py on purpose: what is
measured on them must not have been seen, in any wording, by the calibration."""

import datetime
import json
import math
from fractions import Fraction

PEOPLE = "Anouk Bram Cleo Dries Elif Fleur Gijs Hugo Inez Jip Koen Lotte Mees Noor Otis Puk Roos Sven Teun Vick".split()
NOUNS = "anchor basket candle drum engine feather goblet hammer ink jacket kite lantern mirror needle oar parrot quilt ribbon saddle trumpet".split()


def talk(*turns, system=None, tools=None):
    roles = {"u": "user", "a": "assistant", "t": "tool"}
    out = {
        "messages": ([{"role": "system", "content": system}] if system else [])
        + [{"role": roles[k], "content": v} for k, v in turns]
    }
    if tools:
        out["tools"] = tools
    return out


def track_runners(r):
    lap, a, b = r.choice([300, 400, 500]), r.randint(12, 18), r.randint(6, 11)
    x, y = r.sample(PEOPLE, 2)
    t = Fraction(lap * 60, (a - b) * 1000)
    return talk(
        (
            "u",
            f"{x} runs at {a} km/h and {y} at {b} km/h round a track of {lap} m, starting side by side. After how many minutes does {x} lap {y} for the first time?",
        ),
        (
            "a",
            f"To lap means to be one full round, {lap} m, ahead. The lead grows by {a} − {b} = {a - b} km/h, or {(a - b) * 1000 / 60:.2f} m per minute.\n\n{lap} / {(a - b) * 1000 / 60:.2f} ≈ **{float(t):.2f} minutes**, "
            f"that is about {round(float(t) * 60)} seconds. By then {y} has run {float(t) * b * 1000 / 60:.0f} m and {x} {float(t) * a * 1000 / 60:.0f} m.",
        ),
    )


def venn(r):
    both, a, b, none = r.randint(3, 15), r.randint(4, 30), r.randint(4, 30), r.randint(0, 12)
    n = both + a + b + none
    p, q = r.sample(["chess", "judo", "choir", "pottery", "rowing", "drama", "robotics"], 2)
    return talk(
        (
            "u",
            f"In a year group of {n}, {a + both} pupils take {p}, {b + both} take {q} and {none} take neither. How many take both?",
        ),
        (
            "a",
            f"At least one of the two: {n} − {none} = {n - none}.\n\nAdding the two groups counts those in both twice: {a + both} + {b + both} = {a + b + 2 * both}.\n\nThe excess is {a + b + 2 * both} − {n - none} = **{both}**. "
            f"Only {p}: {a}; only {q}: {b}; and {a} + {b} + {both} + {none} = {n}.",
        ),
    )


def map_scale(r):
    s, cm = r.choice([10_000, 25_000, 50_000, 100_000, 200_000]), r.randint(12, 180) / 10
    km = s * cm / 100_000
    speed = r.choice([4, 5, 16, 18])
    return talk(
        (
            "u",
            f"On a 1:{s:,} map two huts are {cm} cm apart. How far is that on the ground, and how long at {speed} km/h?",
        ),
        (
            "a",
            f"One centimetre stands for {s:,} cm = {s / 100_000:g} km. So {cm} × {s / 100_000:g} = **{km:g} km** in a straight line.\n\nAt {speed} km/h: {km:g} / {speed} = {km / speed:.3f} h ≈ {round(km / speed * 60)} minutes. The path will be longer than the line.",
        ),
    )


def weekday(r):
    d = datetime.date(r.randint(2001, 2039), r.randint(1, 12), r.randint(1, 28))
    k = r.randint(20, 400)
    e = d + datetime.timedelta(days=k)
    return talk(
        ("u", f"{d.day} {d:%B %Y} is a {d:%A}. Which weekday is it {k} days later, and on what date?"),
        (
            "a",
            f"Weekdays repeat every 7 days: {k} = {k // 7} × 7 + {k % 7}. So move {k % 7} day{'s' if k % 7 != 1 else ''} on from {d:%A}: **{e:%A}**.\n\nThe date is {e.day} {e:%B %Y}.",
        ),
    )


def roman(r):
    n = r.randint(40, 3900)
    parts, x, s = [], n, ""
    for v, t in [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ]:
        while x >= v:
            parts.append(f"{v} ({t})")
            x, s = x - v, s + t
    return {
        "text": f"Q: {n} in Roman numerals?\nA: Take off the largest piece each time: {n} = {' + '.join(parts)}. Written together: {s}."
    }


def horner(r):
    c, x = [r.choice([-4, -3, -2, -1, 1, 2, 3, 5]) for _ in range(r.randint(4, 5))], r.choice([-3, -2, 2, 3, 4])
    acc, rows = c[0], [f"start with {c[0]}"]
    for k in c[1:]:
        rows.append(f"{acc} · {x} + {k} = {acc * x + k}".replace("+ -", "− "))
        acc = acc * x + k
    poly = " ".join(f"{'+' if k >= 0 else '−'} {abs(k)}x^{len(c) - 1 - i}" for i, k in enumerate(c)).lstrip("+ ")
    return {
        "text": f"Evaluate p(x) = {poly} at x = {x} with Horner's scheme.\n\n"
        + "\n".join(rows)
        + f"\n\np({x}) = {acc}, with {len(c) - 1} multiplications."
    }


def change(r):
    coins, due, given = [50, 20, 10, 5, 2, 1], r.randint(101, 995), r.choice([1000, 2000])
    rest, lines, left, n = given - due, [], given - due, 0
    for coin in [500, 200, 100] + coins:
        if left // coin:
            n += left // coin
            lines.append(f"{left // coin} × {coin} cent, {left % coin} left")
            left %= coin
    return talk(
        (
            "u",
            f"I pay {due / 100:.2f} with a {given // 100} euro note. Which coins and notes do I get back, as few as possible (5 euros and less)?",
        ),
        (
            "a",
            f"The change is {given / 100:.2f} − {due / 100:.2f} = {rest / 100:.2f}, i.e. {rest} cents. Take the largest that fits each time:\n\n"
            + "\n".join(f"- {x}" for x in lines)
            + f"\n\n{n} pieces altogether.",
        ),
    )


def triangle(r):
    m, n = r.choice([(2, 1), (3, 2), (4, 1), (4, 3), (5, 2), (6, 1), (5, 4), (7, 2)])
    k = r.randint(1, 6)
    a, b, c = k * (m * m - n * n), k * 2 * m * n, k * (m * m + n * n)
    what = r.choice(["ladder", "ramp", "guy rope", "zip line"])
    return talk(
        (
            "u",
            f"A {what} reaches {max(a, b)} dm up a wall with its foot {min(a, b)} dm from the wall. How long is it, and what slope does it have?",
        ),
        (
            "a",
            f"Wall, ground and {what} form a right triangle: {a}² + {b}² = {a * a} + {b * b} = {c * c}, and √{c * c} = {c}. So it is **{c} dm** long.\n\nSlope: {max(a, b)} / {min(a, b)} = {max(a, b) / min(a, b):.2f}, an angle of "
            f"{math.degrees(math.atan2(max(a, b), min(a, b))):.1f}°.",
        ),
    )


def committee(r):
    n, k, x = r.randint(7, 14), r.randint(3, 5), r.choice(PEOPLE)
    return talk(
        ("u", f"How many committees of {k} can be chosen from {n} people? In how many of them does {x} sit?"),
        (
            "a",
            f"Order doesn't matter: C({n}, {k}) = {n}! / ({k}! · {n - k}!) = **{math.comb(n, k)}**.\n\nWith {x} fixed, choose the other {k - 1} from {n - 1}: C({n - 1}, {k - 1}) = **{math.comb(n - 1, k - 1)}**. "
            f"That is {k}/{n} of all committees, as one would guess.",
        ),
    )


REASONING = [track_runners, venn, map_scale, weekday, roman, horner, change, triangle, committee]


def fn(name, about, **params):
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {
                "type": "object",
                "properties": {k: {"type": v} for k, v in params.items()},
                "required": list(params),
            },
        },
    }


def invoke(r, name, **args):
    form = r.randint(0, 1)
    return (
        json.dumps({"name": name, "arguments": args}, ensure_ascii=False)
        if form
        else f"[{name}({', '.join(f'{k}={json.dumps(v, ensure_ascii=False)}' for k, v in args.items())})]"
    )


def music_tool(r):
    genre, mins, n = r.choice(["baroque", "samba", "bluegrass", "dub", "polka"]), r.randint(20, 90), r.randint(2, 5)
    songs = [
        {"id": r.randint(100, 9999), "title": " ".join(r.sample(NOUNS, 2)).title(), "seconds": r.randint(120, 500)}
        for _ in range(n)
    ]
    total = sum(s["seconds"] for s in songs)
    return talk(
        ("u", f"Queue some {genre}, no more than {mins} minutes."),
        ("a", invoke(r, "find_music", genre=genre, max_minutes=mins)),
        ("t", json.dumps(songs)),
        ("a", invoke(r, "queue_songs", ids=[s["id"] for s in songs])),
        ("t", json.dumps({"queued": n, "position": r.randint(1, 20)})),
        (
            "a",
            f"{n} pieces of {genre} are in the queue, {total // 60}:{total % 60:02d} in total: "
            + "; ".join(s["title"] for s in songs)
            + ".",
        ),
        tools=[
            fn("find_music", "Searches the collection.", genre="string", max_minutes="integer"),
            fn("queue_songs", "Appends to the queue.", ids="array"),
        ],
    )


def parcel_tool(r):
    code = f"{r.randint(10**8, 10**9 - 1)}NL"
    state = r.choice(
        [
            ("in transit", "sorting centre"),
            ("delivered", "letter box"),
            ("held", "customs"),
            ("out for delivery", "van 12"),
        ]
    )
    return talk(
        ("u", f"Where's my parcel {code}?"),
        ("a", invoke(r, "track", code=code)),
        (
            "t",
            json.dumps(
                {
                    "code": code,
                    "status": state[0],
                    "place": state[1],
                    "weight_g": r.randint(80, 9000),
                    "events": r.randint(2, 9),
                }
            ),
        ),
        (
            "a",
            f"Parcel {code} is {state[0]} ({state[1]})."
            + (" Customs may ask you for an invoice." if state[0] == "held" else ""),
        ),
        system=r.choice([None, "You answer questions about parcels. Use the track function."]),
        tools=[fn("track", "Status of a parcel.", code="string")],
    )


def grade_tool(r):
    pupil, marks = r.choice(PEOPLE), [r.randint(1, 20) for _ in range(r.randint(3, 6))]
    return talk(
        ("u", f"What is {pupil}'s average, and what does {pupil} need in the next test to get to {max(marks)}?"),
        ("a", invoke(r, "marks", pupil=pupil.lower())),
        ("t", json.dumps({"pupil": pupil.lower(), "scale": 20, "marks": marks})),
        (
            "a",
            f"The average of {', '.join(map(str, marks))} is {sum(marks) / len(marks):.2f}. For an average of {max(marks)} over {len(marks) + 1} tests the sum would have to be {max(marks) * (len(marks) + 1)}, so {pupil} would need "
            f"{max(marks) * (len(marks) + 1) - sum(marks)}"
            + (
                ", which is more than the 20 points there are."
                if max(marks) * (len(marks) + 1) - sum(marks) > 20
                else " points."
            ),
        ),
        tools=[fn("marks", "Marks of a pupil.", pupil="string")],
    )


TOOL = [music_tool, parcel_tool, grade_tool]


def ini(r):
    out = []
    for sec in r.sample(NOUNS, r.randint(3, 4)):
        out += (
            [f"[{sec}]"]
            + [
                f"{k} = {r.choice([r.randint(0, 5000), r.choice(['yes', 'no', 'auto']), '/var/lib/' + r.choice(NOUNS), str(r.randint(1, 90)) + r.choice(['s', 'm', 'MB', '%'])])}"
                for k in r.sample(
                    ["limit", "path", "retry", "mode", "cache", "window", "verbose", "backlog"], r.randint(2, 5)
                )
            ]
            + [""]
        )
    return {"text": ("; generated for " + r.choice(NOUNS) + "\n" if r.random() < 0.5 else "") + "\n".join(out).rstrip()}


def ledger(r):
    bal, rows, d = r.randint(10000, 90000), [], datetime.date(2023, r.randint(1, 12), 1)
    for _ in range(r.randint(7, 11)):
        d += datetime.timedelta(days=r.randint(0, 5))
        x = r.choice([-1, -1, -1, 1]) * r.randint(150, 60000)
        bal += x
        rows.append(
            f"{d:%d.%m.%Y}  {r.choice(['transfer', 'card', 'standing order', 'cash', 'refund']):<15}{r.choice(NOUNS):<12}{x / 100:>12,.2f}{bal / 100:>14,.2f}"
        )
    return {
        "text": f"{'Date':<12}{'Kind':<15}{'Reference':<12}{'Amount':>12}{'Balance':>14}\n"
        + "-" * 65
        + "\n"
        + "\n".join(rows)
    }


def tree(r):
    out = [r.choice(NOUNS) + "/"]
    for i, d in enumerate(dirs := sorted(r.sample(NOUNS, r.randint(2, 4)))):
        last = i == len(dirs) - 1
        out.append(("└── " if last else "├── ") + d + "/")
        fs = sorted(f"{x}.{r.choice(['c', 'h', 'md', 'py', 'toml'])}" for x in r.sample(NOUNS, r.randint(2, 4)))
        out += [
            ("    " if last else "│   ")
            + ("└── " if j == len(fs) - 1 else "├── ")
            + f
            + f" ({r.randint(1, 99)}.{r.randint(0, 9)} K)"
            for j, f in enumerate(fs)
        ]
    return {"text": "\n".join(out)}


def geojson(r):
    return {
        "text": json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "geometry": {
                            "type": "Point",
                            "coordinates": [round(r.uniform(-10, 30), 4), round(r.uniform(36, 70), 4)],
                        },
                        "properties": {
                            "name": r.choice(NOUNS).title() + r.choice([" Rock", " Point", " Bank", " Light"]),
                            "flash_s": r.choice([2, 5, 10, 15]),
                            "range_nm": r.randint(5, 26),
                        },
                    }
                    for _ in range(r.randint(2, 4))
                ],
            },
            indent=r.choice([None, 2]),
        )
    }


STRUCTURED = [ini, ledger, tree, geojson]


def state_machine(r):
    states, events = [s.title() for s in r.sample(NOUNS, 4)], r.sample(
        ["start", "stop", "pause", "fail", "reset", "finish", "tick"], 4
    )
    arms = [(a, e, r.choice(states)) for a in states for e in r.sample(events, 2)]
    if r.random() < 0.5:
        return {
            "text": "#[derive(Debug, Clone, Copy, PartialEq, Eq)]\nenum State {\n"
            + "".join(f"    {s},\n" for s in states)
            + "}\n\n#[derive(Debug, Clone, Copy)]\nenum Event {\n"
            + "".join(f"    {e.title()},\n" for e in events)
            + "}\n\nfn next(state: State, event: Event) -> Option<State> {\n    use {Event::*, State::*};\n    Some(match (state, event) {\n"
            + "".join(f"        ({a}, {e.title()}) => {b},\n" for a, e, b in arms)
            + "        _ => return None,\n    })\n}"
        }
    return {
        "text": "from enum import Enum, auto\n\n\nclass State(Enum):\n"
        + "".join(f"    {s.upper()} = auto()\n" for s in states)
        + "\n\nNEXT = {\n"
        + "".join(f'    (State.{a.upper()}, "{e}"): State.{b.upper()},\n' for a, e, b in arms)
        + "}\n\n\ndef run(events, state=State."
        + states[0].upper()
        + '):\n    for i, event in enumerate(events):\n        try:\n            state = NEXT[state, event]\n        except KeyError:\n            raise ValueError(f"event {i}: {event!r} is not allowed in {state.name}") from None\n    return state'
    }


def shell_task(r):
    ext, n, noun = r.choice(["log", "csv", "jpg", "tmp"]), r.randint(2, 60), r.choice(NOUNS)
    return talk(
        ("u", f"Shell command: all .{ext} files under {noun}/ older than {n} days, largest first."),
        (
            "a",
            f"```sh\nfind {noun} -type f -name '*.{ext}' -mtime +{n} -printf '%s\\t%p\\n' | sort -rn\n```\n\n`-mtime +{n}` means more than {n} full days ago, and `-printf` is a GNU extension; on other systems use `-exec stat`. Sizes are in bytes.",
        ),
        ("u", r.choice(["Only the ten biggest", "and delete them?"])),
        (
            "a",
            f"Append `| head -n 10` for the first ten. Before deleting anything read the list; then\n\n```sh\nfind {noun} -type f -name '*.{ext}' -mtime +{n} -delete\n```\n\nremoves **all** that match, not only ten, and doesn't ask.",
        ),
    )


CODE = [state_machine, shell_task]


def shift_chat(r):
    team, days = r.sample(PEOPLE, 4), ["Monday", "Tuesday", "Wednesday", "Thursday"]
    off = r.randrange(4)
    plan = team[:]
    r.shuffle(plan)
    if plan[off] == team[0]:
        plan[off], plan[off - 1] = plan[off - 1], plan[off]
    return talk(
        ("u", f"One person per evening, Monday to Thursday: {', '.join(team)}. {team[0]} can't do {days[off]}."),
        (
            "a",
            "\n".join(f"{d}: {p}" for d, p in zip(days, plan))
            + f"\n\n{team[0]} is on {days[plan.index(team[0])]}, so {days[off]} is clear.",
        ),
        system=r.choice([None, "You draw up rotas for a youth club.", "Keep it to the rota and one remark."]),
    )


CHAT = [shift_chat]

# Bytes of text to generate for each domain, on top of what is written by hand.
TARGETS = {
    "reasoning": (REASONING, 15_000),
    "tool": (TOOL, 12_000),
    "structured": (STRUCTURED, 12_000),
    "code": (CODE, 9_000),
    "chat": (CHAT, 4_000),
}
