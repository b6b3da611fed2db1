"""An accuracy result for a terminal."""

from __future__ import annotations

from typing import Any

from ferplus_keras.wording import counted, percent
from verify.result import Result

WORDS = {True: "pass", False: "FAIL"}


def interval(rate: dict[str, Any]) -> str:
    """Wilson's interval in percent."""
    if rate["interval"] is None:
        return "-"
    low, high = rate["interval"]
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def as_text(result: Result) -> str:
    """The figures of each split, what was asked and the verdict, and what a reader must know."""
    protocol, resize = result["protocol"], result["preprocessing"]["resize"]
    lines = [
        f"{result['model']['name']}, run by {result['model']['run_by']}" + ("  STAND-IN weights" * result["standin"]),
        f"protocol {protocol['name']} ({protocol['title']}); {resize['title']}; {result['preprocessing']['text']}",
    ]
    for split in result["splits"]:
        lines += ["", *_split(split, protocol["name"])]
    if result["resizers"]:
        lines += ["", "resizing (decisions that differ from those above):"]
        lines += [
            f"  {each['name']:<14} {split['split']:<5} {percent(split['accuracy'])}  {split['changed']:>5} differ"
            for each in result["resizers"]
            for split in each["splits"]
        ]
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [f"{WORDS[level['passed']]}: {level['summary']}" for level in result["levels"]]
    return "\n".join(lines)


def compared_text(result: Result) -> str:
    """A result of :func:`verify.comparing.compare` as one table, and what each two networks differ by."""
    first = result["protocols"][0]
    networks = result["networks"]
    width = max(len(network["name"]) for network in networks) + 2
    heads = [*result["protocols"], "no copies", "its classes", "macro", "calibr.", "MB", "images/s"]
    lines = [f"{result['split']}, accuracy by protocol; all other figures under {first}", ""]
    lines.append(" " * width + "".join(f"{head:>12}" for head in heads))
    for network in networks:
        scored = network["protocols"]
        cells = [percent(scored[name]["all"]["accuracy"]) for name in result["protocols"]]
        cells += [percent(scored[first][key]["accuracy"]) for key in ("without_copies", "without_missing")]
        cells += [percent(network["macro"]["recall"]), percent(network["ece"])]
        cells += [f"{network['size'] / 1e6:.1f}", f"{network['per_second']:,.1f}"]
        lines.append(f"{network['name']:<{width}}" + "".join(f"{cell:>12}" for cell in cells))
    lines += ["", "recall by class:"]
    lines += [
        f"  {row['name']:<10}" + "".join(f"{percent(each['classes'][place]['recall']):>12}" for each in networks)
        for place, row in enumerate(networks[0]["classes"])
    ]
    lines.append("")
    names = [network["name"] for network in networks]
    lines += [
        f"{names[pair['first']]} alone is right on {pair['only_first']:,}, {names[pair['second']]} alone on "
        f"{pair['only_second']:,}: p {pair['p']:.2g} (McNemar)"
        for pair in result["pairs"]
    ]
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [f"note: {network['name']}: {note}" for network in networks for note in network["notes"]]
    return "\n".join(lines)


def _split(split: dict[str, Any], protocol: str) -> list[str]:
    clean, ties, loss = split["without_copies"], split["ties"], split["log_loss"]
    lines = [
        f"{split['split']}, {protocol}: {percent(split['accuracy'])}  {split['correct']:,} of {split['n']:,}  "
        f"(95 %: {interval(split)})",
    ]
    if split["copies"]["n"]:
        lines.append(
            f"  without the {split['copies']['n']:,} whose exact copy training may have seen: "
            f"{percent(clean['accuracy'])}  {clean['correct']:,} of {clean['n']:,}"
        )
    if split["missing"]:
        theirs = split["without_missing"]
        lines.append(
            f"  without the {split['n'] - theirs['n']:,} of {' and '.join(split['missing'])}, which it does not know: "
            f"{percent(theirs['accuracy'])}  {theirs['correct']:,} of {theirs['n']:,}"
        )
    if ties["tied"]["n"]:
        lines.append(
            f"  two emotions tie on {counted(ties['tied']['n'], 'image')}: accuracy "
            f"{percent(ties['tied']['accuracy'])}, or {percent(ties['tied_either']['accuracy'])} if either counts; "
            f"{percent(ties['untied']['accuracy'])} on the others"
        )
    lines += [
        f"  macro recall {percent(split['macro']['recall'])}, F1 {percent(split['macro']['f1'])}; always the commonest "
        f"class: {percent(split['always_the_commonest'])}",
        f"  calibration error {percent(split['calibration']['ece'])}; log loss {loss['cross_entropy']:.3f} against "
        f"the protocol's targets, whose entropy is {loss['entropy']:.3f}",
        f"  {'class':<10} {'n':>6} {'precision':>10} {'recall':>9} {'F1':>9}",
    ]
    lines += [
        f"  {row['name']:<10} {row['support']:>6,} {percent(row['precision']):>10} {percent(row['recall']):>9} "
        f"{percent(row['f1']):>9}"
        for row in split["classes"]
    ]
    return lines
