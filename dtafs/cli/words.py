"""How the commands word what the store says."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dtafs.core.quantities import counted
from dtafs.store.compare import printable

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
LETTERS = {"added": "A", "changed": "M", "removed": "D"}
TYPE_BITS = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
}


TROUBLES = {
    "retries": "asked again",
    "timeouts": "no answer in time",
    "throttled": "throttled",
    "server_errors": "errors of the server",
    "connection_errors": "broken connections",
    "lost_answers": "answers lost that had succeeded",
    "credentials_renewed": "credentials renewed",
    "given_up": "given up",
}


def size_text(size_bytes: int) -> str:
    """`1.5 GiB`: three digits and a unit."""
    value, unit = float(size_bytes), UNITS[0]
    for unit in UNITS:
        if value < 999.5 or unit == UNITS[-1]:
            break
        value /= 1024
    if unit == "B":
        return f"{size_bytes} B"
    return f"{value:.2f} {unit}" if value < 1 else f"{value:.3g} {unit}"


def time_text(text: str) -> str:
    """A time of the log to the second: `2024-07-04 12:00:00`, in UTC."""
    return text[:19].replace("T", " ")


def ever_text(text: str) -> str:
    """A time to the second, or `for ever`."""
    return f"{time_text(text)} UTC" if text[:1].isdigit() else text


def verified_text(facts: dict[str, Any]) -> str:
    """When packs were last read and found sound, the oldest of them."""
    parts = []
    if facts["oldest"]:
        parts.append(f"since {time_text(facts['oldest'])} UTC")
    if facts["never"]:
        parts.append(f"never: {facts['never']:,} of {counted(facts['packs'], 'pack')}")
    if facts["damaged"]:
        parts.append(f"damaged: {facts['damaged']:,}")
    return "; ".join(parts) or "nothing is stored"


def table(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Columns two spaces apart, those in `right` aligned right; the first row is the head."""
    kept = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    for row in kept:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def fields(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Labelled lines; a value of several lines goes on below itself."""
    kept = list(pairs)
    width = max(len(label) for label, _ in kept) + 2
    for label, text in kept:
        for i, line in enumerate(text.splitlines() or [""]):
            yield f"{'' if i else label:<{width}}{line}".rstrip()


DISPOSED = "its bytes are gone, lawfully; see: dtafsctl retain certificate {}"


def version_fields(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What is said of a version everywhere."""
    actor = facts["actor"]
    user, host, program = (printable(actor[name]) for name in ("user", "host", "program"))
    files = counted(facts["files"], "file")
    return [
        ("Version", facts["id"]),
        ("SHA-256", facts["sha256"]),
        ("Sealed", f"{time_text(facts['time'])} UTC"),
        ("By", f"{user} (uid {actor['uid']}) on {host}, with {program}"),
        ("Message", "\n".join(map(printable, facts["message"].splitlines()))),
        ("Tags", ", ".join(facts["tags"]) or "none"),
        ("Holds", f"{files}, {facts['size_bytes']:,} bytes"),
        *([("Disposed", DISPOSED.format(facts["id"]))] if facts["disposed"] else []),
    ]


def change_lines(changes: Iterable[dict[str, Any]], everything: bool) -> Iterator[str]:
    """One line a change: its letter, the path, what of it changed.

    Without `everything`, directories of which only the time changed are left out.
    """
    hidden = 0
    for change in changes:
        aspects = change.get("aspects", [])
        if not everything and change["kind"] == "directory" and aspects == ["mtime_ns"]:
            hidden += 1
            continue
        mark = "/" if change["kind"] == "directory" else ""
        line = f"{LETTERS[change['change']]} {printable(change['path'] or '.')}{mark}"
        before, after = change["size_before"], change["size_after"]
        if before is not None and after is not None and before != after:
            line += f"  ({after - before:+,} bytes)"
        elif "content" not in aspects and aspects:
            line += f"  ({', '.join(name.removesuffix('_ns') for name in aspects)})"
        yield line
    if hidden:
        yield f"({hidden:,} of the changes are only times of directories: --all shows them)"


def totals_line(totals: dict[str, int]) -> str:
    """The sum of a comparison."""
    text = ", ".join(f"{totals[name]:,} {name}" for name in ("added", "changed", "removed"))
    return f"{text}; {totals['bytes_added']:,} bytes came, {totals['bytes_removed']:,} went"


def entry_line(facts: dict[str, Any]) -> str:
    """A name of a version as `ls -l` shows it."""
    mode = stat.filemode(TYPE_BITS[facts["kind"]] | int(facts["mode"], 8))
    owner = f"{facts['uid']:>5} {facts['gid']:>5}"
    name = printable(facts["path"])
    if facts["kind"] == "symlink":
        name += f" -> {printable(facts['target'])}"
    return f"{mode} {owner} {facts['size_bytes']:>13,} {time_text(facts['mtime'])}  {name}"


def mirror_text(facts: dict[str, Any]) -> str:
    """How far the mirror lags, in a line or a few."""
    lines = [f"tier {facts['tier']} has the log and the metadata"]
    if facts["entries_behind"]:
        entries = f"{facts['entries_behind']:,} of its last entries"
        lines = [f"tier {facts['tier']} lacks {entries}, for {facts['behind_s']:,.0f} s"]
    if facts["content_packs_behind"]:
        lines.append(f"{counted(facts['content_packs_behind'], 'content pack')} still to be copied")
    if facts["left_out"]:
        lines.append(
            f"{counted(len(facts['left_out']), 'pack')} cannot be read here: dtafsctl check"
        )
    if facts["problem"]:
        lines.append(facts["problem"])
    return "\n".join(lines)


def requests_text(counters: dict[str, int]) -> str:
    """`12 requests, 3 MiB sent, 1 MiB received; 2 asked again`."""
    sent, received = counters.get("bytes_put", 0), counters.get("bytes_read", 0)
    requests = counted(counters.get("requests", 0), "request")
    text = f"{requests}, {size_text(sent)} sent, {size_text(received)} received"
    troubles = [f"{counters[key]:,} {word}" for key, word in TROUBLES.items() if counters.get(key)]
    return "; ".join([text, ", ".join(troubles)]) if troubles else text
