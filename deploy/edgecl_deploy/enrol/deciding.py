"""What is decided about the classes of this device once they are there: no model is run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from edgecl_deploy.enrol.local import KEPT, Content, Local
from edgecl_deploy.enrol.records import Entry
from edgecl_deploy.errors import NameTakenError, OptionError
from edgecl_deploy.manifest import names

_LIST = "`edgecl-device enrolled list` shows what there is."


def remove(local: Local, name: str, *, purge: bool = False) -> int:
    """Remove a class of this device: what answers then is as if it had never been enrolled.

    Args:
        local: The folder.
        name: Of the class.
        purge: Remove what older generations hold of it, too, also if it was removed before. Flash
            may keep the blocks.

    Returns:
        The number of the new generation; the present one if nothing else changes.
    """
    return _changed(
        local,
        name,
        lambda entry: None if entry.name == name else entry,
        "removed",
        purge=purge,
    )


def forget(local: Local, release: int, is_forgotten: Callable[[str], bool]) -> None:
    """Purge classes of this device, all at once, and what a cut left of an earlier purge.

    Args:
        local: The folder.
        release: Classes that were enrolled on it or on a later one stay.
        is_forgotten: Whether a class of a name is to go.

    While the manifest of a class that stays is damaged, what only the others need is not known:
    they are removed, and it is a StoreError; a later call purges them.
    """
    with local.lock():
        gone = {entry for entry in local.entries_before(release) if is_forgotten(entry.name)}
        if not gone:
            local.collect()
            return
        content = local.read()
        entries = [entry for entry in content.entries if entry not in gone]
        _purged(local, content, entries, names=sorted({entry.name for entry in gone}))


def keep_both(local: Local, name: str) -> int:
    """Let a class of this device answer with the release's class of the same name.

    Returns:
        The number of the new generation.
    """
    return _changed(
        local,
        name,
        lambda entry: replace(entry, both=True) if entry.name == name else entry,
        "kept both",
    )


def rename(local: Local, name: str, new: str, classes: Iterable[str]) -> int:
    """Give a class of this device another name.

    Args:
        local: The folder.
        name: That it has.
        new: That it gets, as it is stored.
        classes: Of the release.

    Returns:
        The number of the new generation.

    Raises:
        NameTakenError: Another class has it.
    """
    content = local.read()
    taken = {*classes, *content.hidden, *(entry.name for entry in content.entries)}
    twin = names.one_name([*sorted(taken - {name}), new])
    if twin is not None:
        raise NameTakenError(
            "a class must have a name of its own", names.both(*twin), "Choose one."
        )
    return _changed(
        local,
        name,
        lambda entry: replace(entry, name=new, both=False) if entry.name == name else entry,
        "renamed",
        new=new,
    )


def suppress(local: Local, name: str, classes: Iterable[str], *, off: bool = False) -> int:
    """Never answer a class of the release, or answer it again. It is hidden, not erased.

    Args:
        local: The folder.
        name: Of the class.
        classes: Of the release.
        off: Answer it again.

    Returns:
        The number of the new generation; the present one if nothing changes.

    Raises:
        OptionError: The release has no such class, or no other one.
    """
    published = frozenset(classes)
    with local.lock():
        content = local.read()
        hidden = [each for each in content.hidden if each != name]
        if off and name not in content.hidden:
            raise OptionError("the class must be hidden", names.quoted(name), _LIST)
        if not off:
            if name not in published:
                raise OptionError(
                    "a class that is hidden must be one of the release",
                    names.quoted(name),
                    f"Remove a class of this device instead. {_LIST}",
                )
            hidden.append(name)
            if not published - {*hidden}:
                raise OptionError(
                    "a class of the release must be left", "none", "Show another one first."
                )
        if tuple(hidden) == content.hidden:
            return content.number
        event = "shown" if off else "hidden"
        return local.write(content.entries, hidden, {}, event, name=name)


def _changed(
    local: Local,
    name: str,
    change: Callable[[Entry], Entry | None],
    event: str,
    *,
    purge: bool = False,
    **details: object,
) -> int:
    """Write the entries anew.

    Raises:
        OptionError: No entry has the name, nor has one that is to be collected.
    """
    with local.lock():
        content: Content = local.read()
        known = local.all_entries() if purge else content.entries
        if name not in {entry.name for entry in known}:
            raise OptionError("the class must be one of this device", names.quoted(name), _LIST)
        entries = [new for entry in content.entries if (new := change(entry)) is not None]
        if purge:
            return _purged(local, content, entries, name=name)
        return local.write(entries, content.hidden, {}, event, kept=KEPT, name=name, **details)


def _purged(local: Local, content: Content, entries: Sequence[Entry], **details: object) -> int:
    """Let entries count alone, and remove what only others need.

    Returns:
        The number of the generation that has them; it is a new one only if there was none.
    """
    is_newest = local.next_number() == content.number + 1
    if content.wrong or not is_newest or tuple(entries) != content.entries:
        return local.write(entries, content.hidden, {}, "purged", kept=1, **details)
    local.collect(1)
    local.journal.write("purged", local.now(), generation=content.number, **details)
    return content.number
