"""Generators of calibration documents: worked problems, tool calls, records, logs and code.

Every function takes a random.Random and returns a document without its domain. Numbers, names and phrasings are drawn, and
what follows from them is computed, so the statements are true. heldout_generators.py holds other templates on other topics.
"""

import json
import math
from fractions import Fraction

NAMES = (
    "Ada Bela Cato Dina Edo Fenna Gus Hanne Iris Joris Kaya Lasse Mila Nuno Oda Pia Quim Rosa Sami Tove Ugo Vera Wout "
    "Yara Zeno"
).split()


def chat(*turns, system=None, tools=None):
    messages = [{"role": "system", "content": system}] if system else []
    roles = {"u": "user", "a": "assistant", "t": "tool"}
    messages += [{"role": roles[r], "content": c} for r, c in turns]
    out = {"messages": messages}
    if tools:
        out["tools"] = [{"type": "function", "function": t} for t in tools]
    return out


def num(x):
    """Two decimals at most, none when whole."""
    s = f"{x:,.2f}".rstrip("0").rstrip(".")
    return s


# ---- reasoning ---------------------------------------------------------------------------------------------------------------


def shopping(r):
    name, n, m = r.choice(NAMES), r.randint(3, 9), r.randint(2, 6)
    a, b = r.sample(
        [
            ("notebooks", 2.4),
            ("pens", 1.35),
            ("folders", 3.2),
            ("brushes", 4.75),
            ("mugs", 6.9),
            ("candles", 2.15),
            ("bulbs", 5.6),
            ("jars of honey", 7.25),
            ("postcards", 0.85),
            ("batteries", 1.95),
        ],
        2,
    )
    pa, pb = round(a[1] + r.randint(0, 8) * 0.05, 2), round(b[1] + r.randint(0, 8) * 0.05, 2)
    off = r.choice([5, 10, 15, 20, 25])
    total = n * pa + m * pb
    final = total * (100 - off) / 100
    q = r.choice(
        [
            f"{name} buys {n} {a[0]} at {pa:.2f} each and {m} {b[0]} at {pb:.2f} each and gets {off} % off the whole bill. How much is that?",
            f"What do {n} {a[0]} ({pa:.2f} apiece) and {m} {b[0]} ({pb:.2f} apiece) cost with a discount of {off} percent?",
            f"On the list: {n} × {a[0]} at {pa:.2f}, {m} × {b[0]} at {pb:.2f}. There's a voucher for {off} %. What does {name} pay?",
        ]
    )
    return chat(
        ("u", q),
        (
            "a",
            f"First the full price.\n\n- {a[0]}: {n} × {pa:.2f} = {n * pa:.2f}\n- {b[0]}: {m} × {pb:.2f} = {m * pb:.2f}\n- "
            f"together: {total:.2f}\n\nThe discount is {off} % of {total:.2f}, which is {total * off / 100:.2f}.\n\n"
            f"{total:.2f} − {total * off / 100:.2f} = **{final:.2f}**",
        ),
    )


def work_rate(r):
    a, b = r.sample([4, 5, 6, 8, 9, 10, 12, 15, 18, 20, 24, 30], 2)
    job, unit = r.choice(
        [
            ("paint the fence", "hours"),
            ("print the edition", "hours"),
            ("copy the archive", "days"),
            ("pick the orchard", "days"),
            ("fill the basin", "minutes"),
            ("sort the mail", "minutes"),
        ]
    )
    x, y = r.sample(NAMES, 2)
    t = 1 / (Fraction(1, a) + Fraction(1, b))
    q = r.choice(
        [
            f"{x} can {job} in {a} {unit}, {y} in {b}. How long do they need together?",
            f"Working alone, {x} takes {a} {unit} to {job} and {y} takes {b} {unit}. What if they work side by side?",
        ]
    )
    frac = f"{t.numerator}/{t.denominator}" if t.denominator > 1 else f"{t.numerator}"
    return chat(
        ("u", q),
        (
            "a",
            f"In one unit of time {x} does 1/{a} of the job and {y} 1/{b}.\n\nTogether 1/{a} + 1/{b} = {Fraction(1, a) + Fraction(1, b)} "
            f"of the job, so the whole takes the reciprocal, {frac} {unit}"
            + (f" ≈ {num(float(t))} {unit}." if t.denominator > 1 else ".")
            + f"\n\nThat is less than {min(a, b)}, the time of the faster one alone, as it has to be.",
        ),
    )


def opposite_trains(r):
    v1, v2 = r.choice(range(60, 130, 5)), r.choice(range(60, 150, 5))
    hours = Fraction(r.randint(3, 12), 4)
    d = (v1 + v2) * hours
    h, m = divmod(int(hours * 60), 60)
    s = r.choice(["trains", "cyclists' support cars", "coaches", "lorries"])
    return chat(
        (
            "u",
            f"Two {s} start at the same time from towns {num(float(d))} km apart and drive towards each other, at {v1} and {v2} km/h. When do they meet and where?",
        ),
        (
            "a",
            f"The distance between them shrinks by {v1} + {v2} = {v1 + v2} km every hour.\n\n{num(float(d))} / {v1 + v2} = {num(float(hours))} hours, "
            f"that is {h} h {m} min.\n\nIn that time the first covers {v1} × {num(float(hours))} = {num(float(v1 * hours))} km and the second "
            f"{num(float(v2 * hours))} km; the sum is {num(float(d))} km, as it should be.",
        ),
    )


def ages(r):
    x, y = r.sample(NAMES, 2)
    now, k, later = r.randint(4, 14), r.randint(3, 6), 0
    elder = now * k
    # In `later` years the elder is j times as old.
    options = [
        (j, (elder - j * now) // (j - 1)) for j in range(2, k) if (elder - j * now) % (j - 1) == 0 and elder > j * now
    ]
    j, later = r.choice(options) if options else (1, 0)
    if not later:
        return shopping(r)
    return chat(
        (
            "u",
            f"{x} is {k} times as old as {y}. In {later} years {x} will be {j} times as old as {y}. How old are they now?",
        ),
        (
            "a",
            f"Call {y}'s age a; then {x} is {k}a.\n\nIn {later} years: {k}a + {later} = {j}(a + {later})\n{k}a + {later} = {j}a + {j * later}\n"
            f"{k - j}a = {(j - 1) * later}\na = {now}\n\n{y} is **{now}** and {x} is **{elder}**. In {later} years they are {now + later} and {elder + later}, and "
            f"{j} × {now + later} = {elder + later}. ✓",
        ),
    )


UNITS = [
    ("inches", "cm", 2.54),
    ("feet", "m", 0.3048),
    ("miles", "km", 1.609344),
    ("pounds", "kg", 0.45359237),
    ("ounces", "g", 28.349523125),
    ("US gallons", "litres", 3.785411784),
    ("acres", "m²", 4046.8564224),
    ("nautical miles", "km", 1.852),
    ("horsepower (metric)", "W", 735.49875),
    ("atmospheres", "kPa", 101.325),
    ("calories", "J", 4.184),
    ("light-years", "10¹² km", 9.4607304725808),
]


def conversion(r):
    u, v, f = r.choice(UNITS)
    x = r.choice([r.randint(2, 60), round(r.uniform(0.5, 40), 1)])
    y = x * f
    q = r.choice(
        [
            f"Convert {x} {u} to {v}.",
            f"How much is {x} {u} in {v}?",
            f"{x} {u} in {v}, please, and the way back for checking.",
        ]
    )
    return chat(
        ("u", q),
        (
            "a",
            f"The factor is exact or taken as given: 1 of the unit ({u}) = {f} {v}.\n\n{x} × {f} = {y:.6g} {v}\n\nBack again: {y:.6g} / {f} ≈ {y / f:.6g} {u}.",
        ),
    )


def reverse_percent(r):
    p, base = r.choice([5, 8, 10, 12, 15, 20, 25, 30, 40]), r.randint(8, 95) * 10
    up = r.random() < 0.5
    final = base * (100 + p if up else 100 - p) / 100
    thing = r.choice(["rent", "ticket", "coat", "subscription", "bicycle", "course fee"])
    verb = "raised" if up else "reduced"
    wrong = final * (100 - p if up else 100 + p) / 100
    return chat(
        ("u", f"The price of a {thing} was {verb} by {p} % and is now {num(final)}. What was it before?"),
        (
            "a",
            f"The new price is {100 + p if up else 100 - p} % of the old one, so\n\nold = {num(final)} / {(100 + p if up else 100 - p) / 100:.2f} = **{base}**.\n\nTaking {p} % "
            f"{'off' if up else 'on top of'} {num(final)} would give {num(wrong)}, which is wrong because the {p} % refer to the old price.",
        ),
    )


def euclid(r):
    g = r.choice([6, 7, 9, 12, 14, 15, 18, 21])
    a, b = g * r.randint(20, 90), g * r.randint(8, 60)
    a, b = max(a, b) + g, min(a, b)
    steps, x, y = [], a, b
    while y:
        steps.append(f"{x} = {x // y} × {y} + {x % y}")
        x, y = y, x % y
    return chat(
        (
            "u",
            r.choice(
                [
                    f"Find gcd({a}, {b}) with Euclid's algorithm.",
                    f"What is the greatest common divisor of {a} and {b}? Show the steps.",
                    f"Reduce the fraction {b}/{a} to lowest terms.",
                ]
            ),
        ),
        (
            "a",
            "Divide with remainder until nothing is left:\n\n"
            + "\n".join(steps)
            + f"\n\nThe last remainder that isn't zero is **{x}**, so gcd({a}, {b}) = {x} and "
            f"{b}/{a} = {b // x}/{a // x}. The least common multiple is {a} × {b} / {x} = {a * b // x}.",
        ),
    )


def base_change(r):
    n, b = r.randint(90, 5000), r.choice([2, 3, 5, 7, 8, 16])
    digits, x, lines = "", n, []
    while x:
        d = "0123456789abcdef"[x % b]
        lines.append(f"{x} / {b} = {x // b} remainder {x % b}" + (f" ({d})" if x % b > 9 else ""))
        digits, x = d + digits, x // b
    return {
        "text": f"Problem. Write {n} in base {b}.\n\nSolution. Divide by {b} again and again and keep the remainders.\n\n"
        + "\n".join(lines)
        + f"\n\nRead from bottom to top: {n} = ({digits}) in base {b}. It has {len(digits)} digits, and indeed {b}^{len(digits) - 1} = {b ** (len(digits) - 1)} ≤ {n} < "
        f"{b ** len(digits)} = {b}^{len(digits)}."
    }


def linear_system(r):
    x, y = r.randint(-9, 12), r.randint(-9, 12)
    while True:
        a, b, c, d = [r.choice([-5, -4, -3, -2, 2, 3, 4, 5, 6, 7]) for _ in range(4)]
        if a * d - b * c:
            break
    p, q = a * x + b * y, c * x + d * y
    sg = lambda k, v: f"{'+' if k > 0 else '−'} {abs(k)}{v}"
    det = a * d - b * c
    s = lambda v: f"({v})" if v < 0 else f"{v}"
    return chat(
        ("u", f"Solve: {a}x {sg(b, 'y')} = {p} and {c}x {sg(d, 'y')} = {q}."),
        (
            "a",
            f"Eliminate y: multiply the first equation by {s(d)}, the second by {s(b)}, and subtract.\n\n({a * d} − {s(b * c)})x = {p * d} − {s(q * b)}\n{det}x = {p * d - q * b}\nx = {x}\n\n"
            f"Put it into the first: {s(b)}y = {p} − {s(a * x)} = {p - a * x}, so y = {y}.\n\nCheck in the second: {c} · {s(x)} + {s(d)} · {s(y)} = {c * x} + {s(d * y)} = {q}. ✓",
        ),
    )


def urn(r):
    a, b = r.randint(3, 9), r.randint(2, 8)
    ca, cb = r.sample(["red", "blue", "green", "white", "black", "yellow"], 2)
    n = a + b
    p = Fraction(a, n) * Fraction(a - 1, n - 1)
    q = 2 * Fraction(a, n) * Fraction(b, n - 1)
    return chat(
        (
            "u",
            f"A bag holds {a} {ca} and {b} {cb} marbles. I draw two without putting the first one back. Chance of two {ca} ones? And of one of each?",
        ),
        (
            "a",
            f"There are {n} marbles.\n\nTwo {ca}: {a}/{n} × {a - 1}/{n - 1} = {p} ≈ {float(p):.3f}.\n\nOne of each can happen in two orders: {a}/{n} × {b}/{n - 1} + {b}/{n} × {a}/{n - 1} = {q} "
            f"≈ {float(q):.3f}.\n\nTwo {cb} would be {1 - p - q}; the three add up to 1.",
        ),
    )


def ordering(r):
    people = r.sample(NAMES, 4)
    o = people[:]
    r.shuffle(o)
    thing, rel, first, last = r.choice(
        [
            ("height", "is taller than", "tallest", "shortest"),
            ("the race", "finished ahead of", "first", "last"),
            ("seniority", "joined before", "first to join", "last to join"),
        ]
    )
    clues = [f"{o[0]} {rel} {o[1]}", f"{o[2]} {rel} {o[3]}", f"{o[1]} {rel} {o[2]}"]
    r.shuffle(clues)
    return chat(
        ("u", f"{clues[0]}. {clues[1]}. {clues[2]}. Order the four by {thing}: who is {first}, who is {last}?"),
        (
            "a",
            f'Link the clues where a name appears twice.\n\n{o[1]} is in "{o[0]} {rel} {o[1]}" and in "{o[1]} {rel} {o[2]}", which gives {o[0]} > {o[1]} > {o[2]}. With "{o[2]} {rel} {o[3]}" the chain is '
            f"complete:\n\n{' > '.join(o)}\n\nSo {o[0]} is {first} and {o[3]} is {last}. All three clues are used, and no other order fits them.",
        ),
    )


def power_mod(r):
    a, e, m = r.randint(2, 19), r.randint(20, 200), r.choice([7, 11, 13, 17, 19, 23, 29, 31])
    if a % m == 0:
        a += 1
    rows, acc, sq, k = [], 1, a % m, e
    bit = 1
    while k:
        if k & 1:
            acc = acc * sq % m
            rows.append(f"a^{bit} ≡ {sq}, used; product so far {acc}")
        else:
            rows.append(f"a^{bit} ≡ {sq}")
        sq, k, bit = sq * sq % m, k >> 1, bit * 2
    return {
        "text": f"Compute {a}^{e} mod {m} by squaring.\n\n{e} in binary is {e:b}. With a = {a}, each line squares the one before, modulo {m}:\n\n"
        + "\n".join(rows)
        + f"\n\nResult: {a}^{e} ≡ {pow(a, e, m)} (mod {m})."
    }


def mixture(r):
    c1, c2 = sorted(r.sample([5, 10, 15, 20, 30, 40, 50, 60, 70, 80], 2))
    w1, w2 = r.randint(1, 9), r.randint(1, 9)
    total = w1 + w2
    c = Fraction(c1 * w1 + c2 * w2, total)
    what = r.choice(["acid", "syrup", "antifreeze", "salt solution", "cleaning alcohol"])
    return chat(
        ("u", f"I mix {w1} l of {c1} % {what} with {w2} l of {c2} %. What concentration do I get?"),
        (
            "a",
            f"Count the pure substance.\n\n{w1} l at {c1} %: {num(w1 * c1 / 100)} l\n{w2} l at {c2} %: {num(w2 * c2 / 100)} l\nTogether {num((w1 * c1 + w2 * c2) / 100)} l in {total} l.\n\n"
            f"{num((w1 * c1 + w2 * c2) / 100)} / {total} = {float(c) / 100:.4f}, so **{num(float(c))} %**. It lies between {c1} and {c2}, nearer to the one with more litres"
            + (" (here both count the same)." if w1 == w2 else "."),
        ),
    )


def schedule(r):
    start = r.randint(7 * 60, 14 * 60) // 5 * 5
    parts = r.sample(
        [
            ("the briefing", 25),
            ("the drive", 50),
            ("the tour", 75),
            ("lunch", 40),
            ("the film", 95),
            ("the workshop", 110),
            ("packing up", 15),
            ("the walk", 65),
        ],
        4,
    )
    lines, t = [], start
    for p, d in parts:
        lines.append(f"{p}: {t // 60}:{t % 60:02d} + {d} min → {(t + d) // 60}:{(t + d) % 60:02d}")
        t += d
    listed = ", ".join(f"{p} ({d} min)" for p, d in parts)
    return chat(
        (
            "u",
            f"We start at {start // 60}:{start % 60:02d} and do, one after the other, {listed}. When are we finished?",
        ),
        (
            "a",
            "\n".join(lines)
            + f"\n\nIn all {sum(d for _, d in parts)} minutes, or {sum(d for _, d in parts) // 60} h {sum(d for _, d in parts) % 60} min. You finish at **{t // 60}:{t % 60:02d}**.",
        ),
    )


def dreisatz(r):
    n, m = r.randint(3, 9), r.randint(10, 24)
    what, price = r.choice(
        [("Brötchen", 0.42), ("Fliesen", 3.6), ("Hefte", 1.15), ("Meter Stoff", 8.9), ("Liter Farbe", 6.3)]
    )
    return chat(
        ("u", f"{n} {what} kosten {n * price:.2f} Euro. Was kosten {m} {what}?"),
        (
            "a",
            f"Erst auf eins schließen: {n * price:.2f} / {n} = {price:.2f} Euro.\n\nDann mal {m}: {m} · {price:.2f} = **{m * price:.2f} Euro**.",
        ),
    )


def probleme(r):
    a, b = r.randint(12, 60), r.randint(3, 11)
    s, d = 2 * a + b, b
    qui = r.choice(
        [
            ("Deux paniers contiennent ensemble", "pommes", "Le premier", "le second"),
            ("Deux classes comptent ensemble", "élèves", "La première", "la seconde"),
        ]
    )
    return chat(
        ("u", f"{qui[0]} {s} {qui[1]}. {qui[2]} en a {d} de plus que {qui[3]}. Combien chacune ou chacun ?"),
        (
            "a",
            f"Si l'on retire la différence, il reste {s} − {d} = {s - d}, soit deux parts égales de {a}.\n\nDonc {a} d'un côté et {a} + {d} = {a + b} de l'autre ; {a} + {a + b} = {s}. ✓",
        ),
    )


REASONING = [
    shopping,
    work_rate,
    opposite_trains,
    ages,
    conversion,
    reverse_percent,
    euclid,
    base_change,
    linear_system,
    urn,
    ordering,
    power_mod,
    mixture,
    schedule,
    dreisatz,
    probleme,
]

# ---- tools -------------------------------------------------------------------------------------------------------------------


def obj(**props):
    required = [k for k, v in props.items() if not v.pop("optional", False)]
    return {"type": "object", "properties": props, "required": required}


STR, INT, NUM, BOOL = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def call(r, style, name, args):
    if style == 0:
        return json.dumps({"name": name, "arguments": args}, ensure_ascii=False)
    if style == 1:
        return "<tool_call>\n" + json.dumps({"name": name, "arguments": args}, ensure_ascii=False) + "\n</tool_call>"
    return "```json\n" + json.dumps({"tool": name, "parameters": args}, ensure_ascii=False, indent=2) + "\n```"


def inventory_tool(r):
    sku = f"{r.choice('ABCDEFGH')}{r.randint(100, 999)}-{r.choice(['S', 'M', 'L', 'XL'])}"
    stock, want, shop = r.randint(0, 40), r.randint(3, 30), r.choice(["north", "harbour", "station", "mill lane"])
    tools = [
        dict(
            name="stock_level",
            description="Units in stock at one branch.",
            parameters=obj(sku=dict(STR), branch=dict(STR)),
        ),
        dict(
            name="reserve",
            description="Reserves units for 48 hours.",
            parameters=obj(sku=dict(STR), branch=dict(STR), units=dict(INT)),
        ),
    ]
    s = r.randint(0, 2)
    turns = [
        (
            "u",
            r.choice(
                [
                    f"Put aside {want} of {sku} at {shop}, please.",
                    f"Do we have {want} × {sku} in the {shop} branch? If so reserve them.",
                ]
            ),
        ),
        ("a", call(r, s, "stock_level", {"sku": sku, "branch": shop})),
        ("t", json.dumps({"sku": sku, "branch": shop, "units": stock})),
    ]
    if stock >= want:
        ref = f"R{r.randint(10000, 99999)}"
        turns += [
            ("a", call(r, s, "reserve", {"sku": sku, "branch": shop, "units": want})),
            ("t", json.dumps({"ok": True, "reference": ref})),
            (
                "a",
                f"Reserved: {want} of {sku} at {shop}, reference {ref}, for 48 hours. That leaves {stock - want} in stock.",
            ),
        ]
    else:
        turns += [
            (
                "a",
                f"There are only {stock} of {sku} at {shop}, {want - stock} short of the {want} you asked for, so I haven't reserved any. Shall I look at another branch"
                + (f" or put aside the {stock}?" if stock else "?"),
            )
        ]
    return chat(*turns, tools=tools)


def ticket_tool(r):
    tid, who = r.randint(1000, 9999), r.choice(NAMES)
    title = r.choice(
        [
            "Export ends with an empty file",
            "Wrong total on the invoice",
            "Login page blank on tablets",
            "Search ignores hyphens",
            "Clock shows UTC",
            "PDF has no page numbers",
        ]
    )
    prio = r.choice(["low", "normal", "high", "urgent"])
    tools = [
        dict(name="get_ticket", description="Returns one ticket.", parameters=obj(id=dict(INT))),
        dict(
            name="update_ticket",
            description="Changes fields of a ticket.",
            parameters=obj(id=dict(INT), fields={"type": "object"}),
        ),
        dict(name="comment", description="Adds a comment.", parameters=obj(id=dict(INT), text=dict(STR))),
    ]
    s = r.randint(0, 2)
    old = r.choice([p for p in ["low", "normal", "high", "urgent"] if p != prio])
    return chat(
        ("u", f"Assign ticket {tid} to {who} and make it {prio}."),
        ("a", call(r, s, "get_ticket", {"id": tid})),
        (
            "t",
            json.dumps(
                {
                    "id": tid,
                    "title": title,
                    "status": "open",
                    "assignee": None,
                    "priority": old,
                    "comments": r.randint(0, 7),
                }
            ),
        ),
        ("a", call(r, s, "update_ticket", {"id": tid, "fields": {"assignee": who.lower(), "priority": prio}})),
        ("t", json.dumps({"id": tid, "changed": ["assignee", "priority"]})),
        ("a", f'Ticket {tid} ("{title}") now belongs to {who} and has priority {prio}; it was {old} before.'),
        system=r.choice(
            [
                None,
                "You manage a ticket system through tools. Look before you change anything.",
                "You are the desk assistant. Use tools; be brief.",
            ]
        ),
        tools=tools,
    )


def sensor_tool(r):
    room = r.choice(["greenhouse", "cellar", "server room", "loft", "studio", "cold store"])
    n = r.randint(4, 7)
    vals = [round(r.uniform(8, 30), 1) for _ in range(n)]
    mean = round(sum(vals) / n, 2)
    tools = [
        dict(
            name="readings",
            description="Temperature readings of the last hours, oldest first.",
            parameters=obj(room=dict(STR), hours=dict(INT)),
        )
    ]
    q = r.choice(
        [
            f"Average temperature in the {room} over the last {n} hours?",
            f"How warm has it been in the {room}, last {n} h? min, max, mean",
        ]
    )
    return chat(
        ("u", q),
        ("a", call(r, r.randint(0, 2), "readings", {"room": room, "hours": n})),
        ("t", json.dumps({"room": room, "unit": "C", "values": vals})),
        (
            "a",
            f"Over the last {n} hours in the {room}: mean {mean} °C, lowest {min(vals)}, highest {max(vals)}. The latest reading is {vals[-1]} °C, "
            + ("above" if vals[-1] > mean else "below" if vals[-1] < mean else "exactly at")
            + " the mean.",
        ),
        tools=tools,
    )


def flight_tool(r):
    a, b = r.sample(["Lisbon", "Oslo", "Porto", "Vienna", "Riga", "Malta", "Turin", "Cork", "Graz", "Bilbao"], 2)
    opts = sorted(
        (
            {
                "id": f"{r.choice('KQXZ')}{r.choice('ABCD')}{r.randint(100, 999)}",
                "dep": f"{r.randint(6, 20):02d}:{r.choice(['05', '20', '35', '50'])}",
                "stops": r.randint(0, 2),
                "price": r.randint(60, 420),
            }
            for _ in range(r.randint(2, 4))
        ),
        key=lambda o: o["dep"],
    )
    day = f"2025-{r.randint(3, 11):02d}-{r.randint(1, 28):02d}"
    best = min(opts, key=lambda o: o["price"])
    few = min(opts, key=lambda o: (o["stops"], o["price"]))
    tools = [
        dict(
            name="search_flights",
            description="Flights on a day.",
            parameters=obj(
                origin=dict(STR), destination=dict(STR), date=dict(STR, format="date"), cabin=dict(STR, optional=True)
            ),
        )
    ]
    how = ("direct", "one stop", "two stops")[best["stops"]]
    text = f"The cheapest on {day} is {best['id']} at {best['dep']} for {best['price']} ({how})."
    if few["id"] != best["id"] and few["stops"] < best["stops"]:
        text += f" With fewer stops there is {few['id']} at {few['dep']} for {few['price']}, {few['price'] - best['price']} more."
    return chat(
        (
            "u",
            r.choice(
                [
                    f"Cheapest flight from {a} to {b} on {day}?",
                    f"I need to get from {a} to {b}, {day}, as cheap as possible",
                ]
            ),
        ),
        ("a", call(r, r.randint(0, 2), "search_flights", {"origin": a, "destination": b, "date": day})),
        ("t", json.dumps({"flights": opts})),
        ("a", text),
        tools=tools,
    )


def file_tool(r):
    files = {
        f"{n}.{e}": r.randint(1, 900)
        for n, e in zip(
            r.sample(["notes", "draft", "budget", "plan", "photo", "minutes", "thesis", "index"], 4),
            r.sample(["md", "txt", "csv", "png", "pdf", "json"], 4),
        )
    }
    big = max(files, key=files.get)
    folder = r.choice(["inbox", "2024", "shared", "drafts", "export"])
    tools = [
        dict(name="list_dir", description="Names and sizes in KB.", parameters=obj(path=dict(STR))),
        dict(name="move", description="Moves a file.", parameters=obj(src=dict(STR), dst=dict(STR))),
    ]
    s = r.randint(0, 2)
    return chat(
        ("u", f"Move the biggest file in {folder}/ to archive/."),
        ("a", call(r, s, "list_dir", {"path": folder})),
        ("t", json.dumps([{"name": k, "kb": v} for k, v in files.items()])),
        ("a", call(r, s, "move", {"src": f"{folder}/{big}", "dst": f"archive/{big}"})),
        ("t", r.choice(['{"ok": true}', '{"ok": true, "overwritten": false}', "moved"])),
        (
            "a",
            f"Moved `{folder}/{big}` ({files[big]} KB) to `archive/`. The other three files add up to {sum(files.values()) - files[big]} KB and stay where they are.",
        ),
        tools=tools,
    )


def failing_tool(r):
    city = r.choice(["Tampere", "Ghent", "Zadar", "Évora", "Aarhus", "Split", "Trento"])
    err = r.choice(
        [
            {"error": "timeout after 5 s"},
            {"error": "rate limit, retry in 30 s"},
            {"error": "unknown station"},
            {"status": 503, "message": "maintenance"},
        ]
    )
    tools = [dict(name="air_quality", description="Index from 0 (clean) to 100.", parameters=obj(city=dict(STR)))]
    return chat(
        ("u", f"How's the air in {city} right now?"),
        ("a", call(r, r.randint(0, 2), "air_quality", {"city": city})),
        ("t", json.dumps(err)),
        (
            "a",
            f"I couldn't get the value for {city}: the service answered \"{err.get('error') or err['message']}\". I'd rather not guess. "
            + r.choice(
                [
                    "Shall I try again in a minute?",
                    "If you like, I'll ask again later.",
                    "Please ask me again in a little while.",
                ]
            ),
        ),
        tools=tools,
    )


TOOL = [inventory_tool, ticket_tool, sensor_tool, flight_tool, file_tool, failing_tool]

# ---- structured --------------------------------------------------------------------------------------------------------------

WORDS = "amber birch cedar delta ember fjord grove haven inlet jade knoll larch mesa north ochre pine quarry ridge slate tarn umber vale willow yarrow zephyr".split()


def json_records(r):
    kind = r.choice(["order", "plant", "track", "room"])
    rows = []
    for i in range(r.randint(3, 5)):
        w = r.sample(WORDS, 2)
        rows.append(
            {
                "order": lambda: {
                    "id": r.randint(10**5, 10**6),
                    "customer": r.choice(NAMES),
                    "lines": [
                        {
                            "sku": f"{x}-{r.randint(1, 99)}",
                            "qty": r.randint(1, 12),
                            "unit_price": r.randint(100, 9999) / 100,
                        }
                        for x in w
                    ],
                    "paid": r.random() < 0.6,
                    "note": r.choice([None, "leave at the gate", "gift", "call first"]),
                },
                "plant": lambda: {
                    "name": f"{w[0]} {w[1]}",
                    "height_cm": r.randint(5, 300),
                    "light": r.choice(["shade", "half", "full"]),
                    "hardy_to": -r.randint(0, 25),
                    "months": sorted(r.sample(range(1, 13), 3)),
                },
                "track": lambda: {
                    "n": i + 1,
                    "title": f"The {w[0]} {w[1]}".title(),
                    "seconds": r.randint(95, 480),
                    "key": r.choice(["C", "D minor", "F#", "A", "E♭"]),
                    "tags": w,
                },
                "room": lambda: {
                    "room": f"{r.randint(0, 4)}.{r.randint(1, 30):02d}",
                    "seats": r.randint(4, 120),
                    "equipment": {"screen": r.random() < 0.7, "piano": r.random() < 0.1, "windows": r.randint(0, 6)},
                    "key_holder": r.choice(NAMES),
                },
            }[kind]()
        )
    return {
        "text": json.dumps(
            {kind + "s": rows, "count": len(rows), "next": r.choice([None, f"/{kind}s?page={r.randint(2, 9)}"])},
            ensure_ascii=False,
            indent=r.choice([None, 1, 2, 4]),
        )
    }


def log_lines(r):
    t, out = r.randint(0, 80000), []
    style = r.randint(0, 2)
    day = f"2024-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"
    for _ in range(r.randint(9, 15)):
        t += r.randint(0, 40)
        clock = f"{t // 3600:02d}:{t % 3600 // 60:02d}:{t % 60:02d}"
        w = r.choice(WORDS)
        if style == 0:
            ip = f"198.51.100.{r.randint(1, 254)}"
            out.append(
                f'{ip} - - [{day} {clock} +0000] "{r.choice(["GET", "GET", "GET", "POST", "HEAD"])} /{w}/{r.randint(1, 500)} HTTP/1.1" {r.choice([200, 200, 200, 304, 404, 500])} {r.randint(0, 90000)}'
            )
        elif style == 1:
            out.append(
                f"{clock}.{r.randint(0, 999):03d} [{r.choice(['worker-1', 'worker-2', 'main', 'io'])}] {r.choice(['DEBUG', 'INFO ', 'INFO ', 'WARN ', 'ERROR'])} {w}: "
                + r.choice(
                    [
                        f"took {r.randint(1, 4000)} ms",
                        f"retry {r.randint(1, 5)} of 5",
                        f"queue length {r.randint(0, 300)}",
                        f"opened segment {r.randint(1, 10**6):08x}",
                        f"checksum mismatch at offset {r.randint(0, 10**7)}",
                        "done",
                    ]
                )
            )
        else:
            out.append(
                f"{day[5:]} {clock} {w} {r.choice(['kernel', 'cron', 'sshd', 'netd'])}[{r.randint(100, 9999)}]: "
                + r.choice(
                    [
                        f"link up, {r.choice([100, 1000, 2500])} Mb/s",
                        f"started job {r.choice(WORDS)}",
                        f"connection from 192.0.2.{r.randint(1, 254)} port {r.randint(1024, 65535)}",
                        f"temperature {r.randint(35, 91)} C",
                        "session closed",
                    ]
                )
            )
    return {"text": "\n".join(out)}


def md_table(r):
    rows = r.sample(WORDS, r.randint(5, 8))
    cols = r.sample(
        [
            ("Length (km)", lambda: f"{r.uniform(1, 60):.1f}"),
            ("Ascent (m)", lambda: f"{r.randint(20, 1900)}"),
            ("Grade", lambda: r.choice(["easy", "medium", "hard"])),
            ("Open", lambda: r.choice(["all year", "May–Oct", "closed", "weekends"])),
            ("Rating", lambda: "★" * r.randint(1, 5)),
            ("Water", lambda: r.choice(["yes", "no", "–"])),
            ("Hours", lambda: f"{r.randint(1, 9)}:{r.choice(['00', '15', '30', '45'])}"),
        ],
        r.randint(3, 5),
    )
    head = "| Trail | " + " | ".join(c for c, _ in cols) + " |\n|---|" + "---|" * len(cols) + "\n"
    return {
        "text": f"## {r.choice(['Trails', 'Routes', 'Loops', 'Walks'])} around {r.choice(WORDS).title()} {r.choice(['Lake', 'Bridge', 'Hill', 'Village'])}\n\n"
        + head
        + "\n".join(
            f"| {w.title()} {r.choice(['path', 'round', 'way', 'traverse'])} | "
            + " | ".join(f() for _, f in cols)
            + " |"
            for w in rows
        )
    }


def yaml_doc(r):
    services = r.sample(WORDS, r.randint(2, 4))
    out = [f"project: {r.choice(WORDS)}", f"version: {r.randint(1, 4)}.{r.randint(0, 20)}", "services:"]
    for s in services:
        out += [
            f"  {s}:",
            f"    image: registry.example/{s}:{r.randint(1, 9)}.{r.randint(0, 30)}",
            f"    replicas: {r.randint(1, 6)}",
            f"    memory: {r.choice([128, 256, 512, 1024])}Mi",
        ]
        if r.random() < 0.6:
            out += ["    env:"] + [
                f"      {r.choice(WORDS).upper()}_{k}: {r.choice(['true', 'false', r.randint(1, 9000), chr(34) + r.choice(WORDS) + chr(34)])}"
                for k in r.sample(["URL", "MODE", "LIMIT", "LEVEL", "PORT"], 2)
            ]
        if r.random() < 0.5:
            out += [f"    depends_on: [{', '.join(x for x in services if x != s)}]"]
        out += [f'    ports: ["{r.randint(2000, 9999)}:{r.choice([80, 443, 5432, 6379, 8080])}"]']
    return {"text": "\n".join(out)}


def diff_doc(r):
    w = r.sample(WORDS, 5)
    n, old, new = r.randint(10, 300), r.randint(2, 60), r.randint(61, 600)
    return {
        "text": f"diff --git a/{w[0]}/{w[1]}.py b/{w[0]}/{w[1]}.py\n--- a/{w[0]}/{w[1]}.py\n+++ b/{w[0]}/{w[1]}.py\n@@ -{n},7 +{n},9 @@ class {w[2].title()}:\n     def {w[3]}(self, {w[4]}):\n-        "
        f'return self.client.get({w[4]}, timeout={old})\n+        if not {w[4]}:\n+            raise ValueError("{w[4]} is empty")\n+        return self.client.get({w[4]}, timeout={new})\n \n     def close(self):\n         self.client.close()'
    }


def http_doc(r):
    w = r.sample(WORDS, 3)
    body = json.dumps({w[0]: r.randint(1, 99), w[1]: [r.randint(0, 9) for _ in range(4)], "ok": r.random() < 0.8})
    status = r.choice(["200 OK", "201 Created", "409 Conflict", "422 Unprocessable Content"])
    req = json.dumps({"name": w[2], "size": r.randint(1, 500)})
    return {
        "text": f"POST /api/v{r.randint(1, 3)}/{w[2]} HTTP/1.1\nHost: {w[0]}.example\nContent-Type: application/json\nContent-Length: {len(req)}\nIdempotency-Key: {r.getrandbits(64):016x}\n\n{req}\n\n"
        f"HTTP/1.1 {status}\nContent-Type: application/json\nContent-Length: {len(body)}\nX-Request-Time: {r.uniform(0.001, 2):.3f}\n\n{body}"
    }


def trace_doc(r):
    w = r.sample(WORDS, 4)
    lines = [r.randint(5, 400) for _ in range(3)]
    key = r.choice(WORDS)
    return {
        "text": f'Traceback (most recent call last):\n  File "/srv/app/{w[0]}.py", line {lines[0]}, in <module>\n    main()\n  File "/srv/app/{w[0]}.py", line {lines[0] - 3}, in main\n    report = {w[1]}.build(rows, since=args.since)\n'
        f"  File \"/srv/app/{w[1]}.py\", line {lines[1]}, in build\n    totals = {{k: sum(v) for k, v in {w[2]}(rows)}}\n  File \"/srv/app/{w[2]}.py\", line {lines[2]}, in {w[2]}\n    yield row[\"{key}\"], row[\"{w[3]}\"]\n          ~~~^{'^' * (len(key) + 3)}\nKeyError: '{key}'"
    }


STRUCTURED = [json_records, log_lines, md_table, yaml_doc, diff_doc, http_doc, trace_doc]

# ---- code --------------------------------------------------------------------------------------------------------------------

FIELDS = [
    ("name", "str"),
    ("count", "int"),
    ("price", "float"),
    ("active", "bool"),
    ("city", "str"),
    ("weight", "float"),
    ("level", "int"),
    ("title", "str"),
    ("depth", "float"),
    ("visible", "bool"),
    ("owner", "str"),
    ("year", "int"),
    ("speed", "float"),
    ("colour", "str"),
]
THINGS = [
    "Parcel",
    "Boat",
    "Recipe",
    "Sensor",
    "Ticket",
    "Garden",
    "Lesson",
    "Bridge",
    "Poem",
    "Invoice",
    "Glacier",
    "Tram",
    "Violin",
    "Kiln",
]


def record_code(r):
    thing, fields = r.choice(THINGS), r.sample(FIELDS, r.randint(3, 5))
    lang = r.choice(["python", "rust", "ts", "cpp", "sql", "go"])
    low = thing.lower()
    if lang == "python":
        body = "\n".join(f"    {f}: {t}" for f, t in fields)
        checks = (
            "\n".join(
                f'        if self.{f} < 0:\n            raise ValueError(f"{f} is negative: {{self.{f}}}")'
                for f, t in fields
                if t in ("int", "float")
            )
            or "        pass"
        )
        return {
            "text": f"from dataclasses import asdict, dataclass\nimport json\n\n\n@dataclass(frozen=True)\nclass {thing}:\n{body}\n\n    def __post_init__(self):\n{checks}\n\n    def to_json(self) -> str:\n        return json.dumps(asdict(self), sort_keys=True)\n\n"
            f'    @classmethod\n    def from_json(cls, text: str) -> "{thing}":\n        data = json.loads(text)\n        unknown = set(data) - set(cls.__dataclass_fields__)\n        if unknown:\n            raise ValueError(f"unknown fields of {low}: {{sorted(unknown)}}")\n        return cls(**data)'
        }
    if lang == "rust":
        ty = {"str": "String", "int": "i64", "float": "f64", "bool": "bool"}
        body = "\n".join(f"    pub {f}: {ty[t]}," for f, t in fields)
        return {
            "text": f'use std::fmt;\n\n#[derive(Debug, Clone, PartialEq)]\npub struct {thing} {{\n{body}\n}}\n\nimpl fmt::Display for {thing} {{\n    fn fmt(&self, f: &mut fmt::Formatter<\'_>) -> fmt::Result {{\n        write!(f, "{low}(")?;\n'
            + "\n".join(
                f"        write!(f, \"{', ' if i else ''}{n}={{}}\", self.{n})?;" for i, (n, _) in enumerate(fields)
            )
            + '\n        write!(f, ")")\n    }\n}'
        }
    if lang == "ts":
        ty = {"str": "string", "int": "number", "float": "number", "bool": "boolean"}
        body = "\n".join(f"  {f}: {ty[t]};" for f, t in fields)
        return {
            "text": f'export interface {thing} {{\n{body}\n}}\n\nexport function is{thing}(x: unknown): x is {thing} {{\n  if (typeof x !== "object" || x === null) return false;\n  const o = x as Record<string, unknown>;\n  return (\n'
            + " &&\n".join(f'    typeof o.{f} === "{ty[t]}"' for f, t in fields)
            + f"\n  );\n}}\n\nexport const by{fields[0][0].title()} = (a: {thing}, b: {thing}) =>\n  a.{fields[0][0]} < b.{fields[0][0]} ? -1 : a.{fields[0][0]} > b.{fields[0][0]} ? 1 : 0;"
        }
    if lang == "cpp":
        ty = {"str": "std::string", "int": "int64_t", "float": "double", "bool": "bool"}
        init = {"str": "", "int": " = 0", "float": " = 0.0", "bool": " = false"}
        body = "\n".join(f"  {ty[t]} {f}{init[t]};" for f, t in fields)
        return {
            "text": f"#include <cstdint>\n#include <ostream>\n#include <string>\n#include <tuple>\n\nstruct {thing} {{\n{body}\n\n  friend bool operator<(const {thing}& a, const {thing}& b) {{\n    return std::tie({', '.join('a.' + f for f, _ in fields)}) < std::tie({', '.join('b.' + f for f, _ in fields)});\n  }}\n\n"
            f'  friend std::ostream& operator<<(std::ostream& out, const {thing}& x) {{\n    return out << "{thing}{{" << '
            + ' << ", " << '.join("x." + f for f, _ in fields)
            + ' << "}";\n  }\n};'
        }
    if lang == "go":
        ty = {"str": "string", "int": "int64", "float": "float64", "bool": "bool"}
        body = "\n".join(f'\t{f.title()} {ty[t]} `json:"{f}"`' for f, t in fields)
        return {
            "text": f'package store\n\nimport (\n\t"encoding/json"\n\t"fmt"\n\t"io"\n)\n\n// {thing} is one row of the {low} table.\ntype {thing} struct {{\n{body}\n}}\n\n// Read{thing}s decodes one {low} per line and stops at the first bad one.\nfunc Read{thing}s(r io.Reader) ([]{thing}, error) {{\n\tvar out []{thing}\n'
            f'\tdec := json.NewDecoder(r)\n\tfor {{\n\t\tvar x {thing}\n\t\tif err := dec.Decode(&x); err == io.EOF {{\n\t\t\treturn out, nil\n\t\t}} else if err != nil {{\n\t\t\treturn nil, fmt.Errorf("{low} %d: %w", len(out)+1, err)\n\t\t}}\n\t\tout = append(out, x)\n\t}}\n}}'
        }
    ty = {"str": "text", "int": "integer", "float": "numeric(10, 2)", "bool": "boolean"}
    cols = ",\n".join(
        f"    {f} {ty[t]} NOT NULL" + (f" CHECK ({f} >= 0)" if t in ("int", "float") else "") for f, t in fields
    )
    f0 = fields[0][0]
    return {
        "text": f"CREATE TABLE {low} (\n    {low}_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n{cols},\n    created_at timestamptz NOT NULL DEFAULT now()\n);\n\nCREATE INDEX {low}_{f0} ON {low} ({f0});\n\n-- Rows per day of the last week, with days that have none.\nSELECT d::date AS day, count(x.{low}_id) AS rows\n"
        f"FROM generate_series(current_date - {r.randint(5, 30)}, current_date, interval '1 day') AS d\nLEFT JOIN {low} AS x ON x.created_at >= d AND x.created_at < d + interval '1 day'\nGROUP BY day\nORDER BY day;"
    }


def bug_chat(r):
    thing = r.choice(["prices", "scores", "lengths", "samples", "weights", "delays"])
    kind = r.randint(0, 3)
    vals = [r.randint(1, 99) for _ in range(5)]
    if kind == 0:
        k = r.randint(2, 4)
        right = [sum(vals[i : i + k]) for i in range(5 - k + 1)]
        return chat(
            (
                "u",
                f"My moving sum misses the last window. For {vals} with k={k} I expect {right}.\n\n```python\ndef moving_sum({thing}, k):\n    return [sum({thing}[i:i + k]) for i in range(len({thing}) - k)]\n```",
            ),
            (
                "a",
                f"The range is one too short. A list of n values has n − k + 1 windows of length k; with n = 5 and k = {k} that is {6 - k}, and the loop makes {5 - k}.\n\n```python\ndef moving_sum({thing}, k):\n    return [sum({thing}[i:i + k]) for i in range(len({thing}) - k + 1)]\n```\n\nFor your list it gives {right}.",
            ),
        )
    if kind == 1:
        return chat(
            (
                "u",
                f"Why does this change my list?\n\n```python\ndef top({thing}, n):\n    {thing}.sort(reverse=True)\n    return {thing}[:n]\n```\n\nI call top(data, {r.randint(2, 4)}) with data = {vals}.",
            ),
            (
                "a",
                f"`list.sort` sorts in place, and inside the function `{thing}` is the same list object as your `data`; after the call `data` is {sorted(vals, reverse=True)}. Use `sorted`, which makes a new list:\n\n```python\ndef top({thing}, n):\n    return sorted({thing}, reverse=True)[:n]\n```\n\nFor small n and long lists `heapq.nlargest(n, {thing})` does less work.",
            ),
        )
    if kind == 2:
        return chat(
            (
                "u",
                f"Compiler warns about this loop, why?\n\n```cpp\nfor (size_t i = {thing}.size() - 1; i >= 0; --i) total += {thing}[i];\n```",
            ),
            (
                "a",
                f"`size_t` has no negative values, so `i >= 0` is always true. After i = 0, `--i` wraps to the largest value and the access is out of bounds. If `{thing}` is empty, `size() - 1` wraps at the very start.\n\n```cpp\nfor (size_t i = {thing}.size(); i-- > 0;) total += {thing}[i];\n```\n\nHere i is compared before it is decremented. If the order doesn't matter, `for (double x : {thing}) total += x;` is plainer.",
            ),
        )
    return chat(
        (
            "u",
            f"```js\nconst {thing} = {json.dumps([str(v) for v in vals])};\nlet total = 0;\nfor (const x of {thing}) total += x;\nconsole.log(total);\n```\nprints 0{''.join(str(v) for v in vals)}. I wanted {sum(vals)}.",
        ),
        (
            "a",
            f'The elements are strings, and `+` with a string on either side joins instead of adding: 0 + "{vals[0]}" is "0{vals[0]}", and so on. Convert first:\n\n```js\nlet total = 0;\nfor (const x of {thing}) total += Number(x);\n```\n\nThat prints {sum(vals)}. `Number("abc")` is NaN, so check with `Number.isFinite` if the input isn\'t yours.',
        ),
    )


CODE = [record_code, record_code, bug_chat]

# ---- chat --------------------------------------------------------------------------------------------------------------------


def extraction_chat(r):
    who, n, day, hour = (
        r.choice(NAMES),
        r.randint(2, 14),
        r.choice(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]),
        r.randint(17, 21),
    )
    want = r.choice(["by the window", "outside if it's dry", "away from the kitchen", None])
    diet = r.choice(["one of us is vegan", "two don't eat fish", "there is a nut allergy", None])
    msg = f"Hi, it's {who}. We'd like to come on {day} at {hour}:{r.choice(['00', '15', '30'])}"
    when = msg.rsplit(" ", 1)[1]
    msg += (
        f", {n} people"
        + (f", {want}" if want else "")
        + "."
        + (f" Just so you know, {diet}." if diet else "")
        + r.choice([" Thanks!", " See you!", ""])
    )
    data = {"name": who, "day": day.lower(), "time": when, "guests": n, "seating": want, "diet": diet}
    return chat(
        (
            "u",
            "Extract the booking as JSON with name, day, time, guests, seating and diet; null for what isn't said.\n\n"
            + msg,
        ),
        ("a", json.dumps(data, ensure_ascii=False, indent=2)),
        system=r.choice([None, "Answer with JSON only.", "You turn messages into records. No comments."]),
    )


def sorting_chat(r):
    items = r.sample(
        [
            ("Danube", 2850),
            ("Rhine", 1230),
            ("Elbe", 1094),
            ("Loire", 1006),
            ("Tagus", 1007),
            ("Po", 652),
            ("Thames", 346),
            ("Vistula", 1047),
            ("Seine", 777),
            ("Volga", 3530),
            ("Ebro", 930),
        ],
        r.randint(4, 6),
    )
    asc = r.random() < 0.5
    order = sorted(items, key=lambda x: x[1], reverse=not asc)
    return chat(
        (
            "u",
            f"Sort these rivers by length, {'shortest' if asc else 'longest'} first, as a table: "
            + ", ".join(f"{a} ({b} km)" for a, b in items),
        ),
        (
            "a",
            "| River | Length (km) |\n|---|---:|\n"
            + "\n".join(f"| {a} | {b:,} |" for a, b in order)
            + f"\n\nThe longest is {max(b for _, b in items) / min(b for _, b in items):.1f} times the length of the shortest.",
        ),
    )


def plan_chat(r):
    topics = r.sample(
        [
            "irregular verbs",
            "the subjunctive",
            "numbers and dates",
            "listening",
            "reading aloud",
            "a short essay",
            "revision",
            "vocabulary: food",
            "vocabulary: travel",
        ],
        5,
    )
    lang, mins = r.choice(["Portuguese", "Dutch", "Polish", "Greek", "Korean", "Swedish"]), r.choice(
        [20, 25, 30, 40, 45]
    )
    days = r.sample(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], 5)
    days.sort(key=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index)
    return chat(
        ("u", f"Make me a weekly plan for learning {lang}, five sessions of {mins} minutes, on {', '.join(days)}."),
        (
            "a",
            f"Here is a week of five sessions, {5 * mins} minutes in all:\n\n"
            + "\n".join(f"- **{d}** ({mins} min): {t}" for d, t in zip(days, topics))
            + f"\n\nSpend the first {mins // 5} minutes of every session on yesterday's words; that does more than any single topic.",
        ),
        ("u", f"I can't make {days[2]} after all."),
        (
            "a",
            f"Then drop {topics[2]} this week, or add {mins // 4} minutes to each of the other four sessions, {mins + mins // 4} minutes apiece, and fit it in there. I'd keep {days[-1]} as it is.",
        ),
    )


CHAT = [extraction_chat, sorting_chat, plan_chat]

# Bytes of text to generate for each domain, on top of what is written by hand.
TARGETS = {
    "reasoning": (REASONING, 38_000),
    "tool": (TOOL, 38_000),
    "structured": (STRUCTURED, 34_000),
    "code": (CODE, 24_000),
    "chat": (CHAT, 12_000),
}
