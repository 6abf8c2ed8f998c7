"""Checks of parity files, in a lake whose packs have them."""

from __future__ import annotations

from dtafs.core.format import pack_key
from dtafs.core.quantities import counted
from dtafs.errors import NotFoundError
from dtafs.store.findings import WARNING
from dtafs.store.parity import ParityFile
from dtafs.store.parity_upkeep import parity_files
from dtafs.store.survey import DAMAGE, Survey

MEND = "run dtafsctl repair"


def read_parity(survey: Survey, pack: bytes) -> None:
    """Read the whole parity of a pack, if it has any; what is wrong is a finding of I4."""
    try:
        with ParityFile(survey.root, pack) as parity:
            parity.verify()
    except NotFoundError:
        return
    except DAMAGE as error:
        survey.add(4, f"{error}: {MEND}")


def check_parity(survey: Survey) -> None:
    """I4: each parity file is as it was written; I6: every pack has one, or could not be mended.

    A pack that is not there is no reason to complain of its parity, which may yet be of use.
    """
    there = parity_files(survey.root)
    wanted = survey.named.keys() | survey.pending.keys()
    for pack in there.keys() - wanted:
        if not (survey.root / pack_key(pack)).exists():
            survey.add(5, f"parity of pack {pack.hex()}, which nothing needs: {MEND}", (), WARNING)
    if not survey.lake.parity:
        return
    for pack in sorted(wanted & there.keys()):
        try:
            with ParityFile(survey.root, pack):
                pass
        except DAMAGE as error:
            survey.add(4, f"{error}: {MEND}")
    bare = [p for p in wanted - there.keys() if (survey.root / pack_key(p)).exists()]
    if bare:
        survey.add(6, f"{counted(len(bare), 'pack')} without parity: {MEND}", (), WARNING)
