"""Files as everything here writes and reads them: whole or not at all, and a sentence for each way
in which a path, a disk or a file can be wrong."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from dino_tutorial.errors import UserError, causes

LARGEST = 2**28  # bytes of a file that is read as text
LONGEST_NAME = 200  # bytes; file systems take 255, and a number or an ending may be added
TEMPORARY = re.compile(r"\.(\d+)-[0-9a-f]{8}\.tmp")

# What helps against each reason why a file cannot be written.
REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "make {folder} writable, or choose another place",
    errno.EPERM: "make {folder} writable, or choose another place",
    errno.EROFS: "choose a place that is not read-only",
    errno.ENOENT: "make the folder {folder} first",
    errno.ENOTDIR: "choose a folder whose parents are folders",
    errno.EEXIST: "choose another place, there is a file of that name",
    errno.EISDIR: "name a file, not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose a place without links that lead back to themselves",
}
TORCH_ARCHIVE = ("PytorchStreamReader", "inline_container", "failed finding central directory")
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user wrote it, with ``~`` replaced by the home folder.

    Raises:
        UserError: it is empty, or no path, or there is no such home folder.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise UserError(f"a path was expected, not {path!r:.80}: give text, such as 'runs/first'")
    if not text or "\0" in text:
        raise UserError(f"{text!r:.80} is no path: give one that is not empty and has no NUL byte")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~nobody, or ~ where HOME is not set
        raise UserError(
            f"the home folder in {text} is not known: write the whole path instead of "
            f"{text.partition('/')[0]}"
        ) from None


def kind_of(path: str | os.PathLike[str]) -> str:
    """What lies at a path: ``"file"``, ``"folder"``, ``"other"`` (a pipe, a device) or ``""``.

    Raises:
        UserError: the path cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        remedy = "check the path"
        if isinstance(error, PermissionError):
            remedy = f"ask the owner of {_short(Path(path).parent)} for chmod +x"
        raise UserError(
            f"{_short(path)} cannot be opened ({describe_error(error)}): {remedy}"
        ) from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def check_name(name: str, what: str) -> None:
    """Refuse a name that is a path, or that file systems or shells take for something else.

    Raises:
        UserError: saying what a name may be.
    """
    if (
        name in ("", ".", "..")
        or name[0] in "-. "
        or not name.isprintable()
        or any(sign in name for sign in '/\\:*?"<>|')
        or len(os.fsencode(name)) > LONGEST_NAME
    ):
        raise UserError(
            f"{what} {name!r:.60} cannot name a folder: use a name of letters, digits, '-', '_' "
            f"and '.' that begins with a letter or a digit, of at most {LONGEST_NAME} bytes"
        )


def plain_name(text: str) -> str:
    """``text`` with everything replaced that :func:`check_name` refuses; never empty."""
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in text)
    kept = kept.encode("utf-8", "replace")[:100].decode("utf-8", "ignore").lstrip("-. ").rstrip()
    return kept or "data"


def describe_error(error: BaseException) -> str:
    """The reason in a few words: the system's, where there is one, else the first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, EOFError) or any(sign in str(error) for sign in TORCH_ARCHIVE):
        return "it is empty, cut short or damaged"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def unwritable(path: str | os.PathLike[str], error: BaseException, then: str = "") -> UserError:
    """The one sentence about a file that cannot be written.

    Args:
        then: what to do when the reason is mended, such as "continue with --resume".
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno):
        cause = cause.__cause__ or cause.__context__
    number = cause.errno if isinstance(cause, OSError) else None
    told = re.search(r"os error (\d+)|code: (\d+)", str(error))  # as safetensors says it
    if number is None and told:
        number = int(told[1] or told[2])
    remedy = REMEDIES.get(number or 0, "make room or choose another place")
    if number == errno.ENOENT:
        made = next((one for one in (Path(path), *Path(path).parents) if one.parent.is_dir()), None)
        if made is not None and getattr(cause, "filename", None) in (made, os.fspath(made)):
            path, remedy = made, "choose another place, nothing can be made there"
    remedy = remedy.format(folder=Path(path).parent)
    then = f", then {then}" if then else ""
    reason = os.strerror(number) if number else describe_error(error)
    return UserError(f"{_short(path)} cannot be written ({reason}): {remedy}{then}")


def unreadable(path: str | os.PathLike[str]) -> UserError:
    """The one sentence about a file or a folder that may not be read."""
    mode = "+rx" if os.path.isdir(path) else "+r"
    return UserError(
        f"{_short(path)} may not be read (Permission denied): ask its owner for chmod {mode}"
    )


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and its parents, if need be.

    Raises:
        UserError: there is a file in its place, or it may not be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    return Path(path)


@contextlib.contextmanager
def made_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder, made with its parents if need be; after an error what was made is taken away again,
    unless something else lies in it.

    Raises:
        UserError: see :func:`make_folder`.
    """
    path = Path(path)
    made = [one for one in (path, *path.parents) if not kind_of(one)]
    try:
        yield make_folder(path)
    except BaseException:
        for one in made:
            with contextlib.suppress(OSError):
                one.rmdir()
        raise


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], then: str = "") -> Iterator[Path]:
    """A file beside ``path`` to write into; it takes the place of ``path`` when all went well.

    It is synced to the disk first, and has the mode that the umask gives. After any error, and
    after Ctrl-C, the old file is there as before, and nothing else.

    Args:
        then: what to do when the reason of a failure is mended, see :func:`unwritable`.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if len(os.fsencode(path.name)) > 255:  # said before the work is done, not after
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with open(temporary, "xb"):
            mode = stat.S_IMODE(os.stat(temporary).st_mode)
        yield temporary
        os.chmod(temporary, mode)  # some libraries make a private file of their own
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except UserError:
        raise
    except OSError as error:
        raise unwritable(path, error, then) from error
    except RuntimeError as error:
        if not _is_of_the_disk(error):
            raise
        raise unwritable(path, error, then) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes, then: str = "") -> None:
    """Write a whole file or nothing, see :func:`replacing`."""
    with replacing(path, then) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_text(path: str | os.PathLike[str], text: str, then: str = "") -> None:
    """Write a whole UTF-8 file or nothing, see :func:`as_utf8`."""
    write_bytes(path, as_utf8(text), then)


def write_json(path: str | os.PathLike[str], value: dict[str, Any], then: str = "") -> None:
    """Write a dictionary as indented JSON, whole or not at all."""
    write_bytes(path, as_json(value), then)


def as_utf8(text: str) -> bytes:
    """The bytes of a text file; what is no Unicode, in a path for example, becomes an escape."""
    return text.encode("utf-8", "backslashreplace")


def as_json(value: dict[str, Any]) -> bytes:
    """The bytes of a file with a dictionary in indented JSON."""
    return (json.dumps(value, indent=2) + "\n").encode()


def replace_folder(path: Path, files: dict[str, bytes]) -> None:
    """Have a folder hold these files and no others, all of them or, after an error, the old ones.

    Raises:
        UserError: it cannot be written.
    """
    with made_folder(path.parent):
        _replace_folder(path, files)


def _replace_folder(path: Path, files: dict[str, bytes]) -> None:
    mark = f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
    fresh, old = path.parent / mark, path.parent / f"{mark}.old"
    try:
        fresh.mkdir()
        for name, content in files.items():
            with open(fresh / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        _sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what processes that are no more have left of :func:`replacing` in a folder."""
    for path in folder.glob(".*.tmp"):
        found = TEMPORARY.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; nothing else keeps us waiting or has no end.

    Raises:
        OSError: as ``open``, and for pipes, devices and folders.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")
    return os.fdopen(handle, "rb")


def read_bytes(path: str | os.PathLike[str], remedy: str, most: int = LARGEST) -> bytes:
    """The contents of a file.

    Args:
        remedy: what to do where it is missing or is not what it should be.
        most: bytes that it may have.

    Raises:
        UserError: it cannot be read; the sentence says which file, why, and what to do.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise UserError(
                    f"{_short(path)} has {size / 2**20:,.0f} MiB, more than the "
                    f"{most / 2**20:,.0f} that are read: {remedy}"
                )
            return file.read(most)
    except FileNotFoundError:
        raise UserError(f"{_short(path)} does not exist: {remedy}") from None
    except PermissionError:
        raise unreadable(path) from None
    except OSError as error:
        raise UserError(
            f"{_short(path)} cannot be read ({describe_error(error)}): {remedy}"
        ) from None


def read_text(path: str | os.PathLike[str], remedy: str, most: int = LARGEST) -> str:
    """The text of a UTF-8 file; arguments and errors as :func:`read_bytes`."""
    try:
        return read_bytes(path, remedy, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{_short(path)} is no text in UTF-8 (byte {error.start}): {remedy}"
        ) from None


def read_json(path: str | os.PathLike[str], remedy: str) -> dict[str, Any]:
    """The dictionary in a JSON file; arguments and errors as :func:`read_bytes`."""
    return parse_json(read_text(path, remedy), _short(path), remedy)


def parse_json(text: str, where: str, remedy: str) -> dict[str, Any]:
    """The dictionary that a JSON text holds.

    Raises:
        UserError: it is no JSON, or no dictionary.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{where} is no JSON ({reason}): {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} holds {_kind(value)} instead of a dictionary: {remedy}")
    return value


def read_yaml(path: str | os.PathLike[str], remedy: str) -> dict[str, Any]:
    """The dictionary with text as keys in a YAML file; arguments and errors as
    :func:`read_bytes`."""
    text = read_text(path, remedy, 2**20)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "it has signs that YAML does not allow"
        raise UserError(f"{_short(path)} is no YAML ({where}): {remedy}") from None
    except (ValueError, TypeError, RecursionError, OverflowError, AttributeError):
        # dates that do not exist, keys that are lists, nesting without an end
        raise UserError(f"{_short(path)} holds values that no setting has: {remedy}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        wrong = "keys that are no text" if isinstance(value, dict) else _kind(value)
        raise UserError(f"{_short(path)} holds {wrong} instead of settings: {remedy}")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _short(path: str | os.PathLike[str]) -> str:
    """A path as a message shows it, on one line and not longer than one can read."""
    text = os.fspath(path).encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= 300 else f"{text[:140]}…{text[-140:]}"


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(handle)


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether torch's zip writer, which makes a RuntimeError of a full disk, raised an error."""
    signs = ("PytorchStreamWriter", "inline_container")
    return any(
        isinstance(one, OSError) or any(s in str(one) for s in signs) for one in causes(error)
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
