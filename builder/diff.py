"""Why two builds differ: the sections of the comparison, whether what is measured is equal, and the cause in a sentence.

Pure: the two sides are values (:mod:`assay.builder.side`). MRENCLAVE is a function of three things: the manifest's
text, the loadable segments of libpal, and the layout of a Gramine version. So if it differs, one of them does.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from assay.attest.gramine.elf import Image, Segment
from assay.builder.difference import (
    Change,
    Difference,
    Measured,
    Section,
    Topic,
    changes_of,
    cut,
    section,
)
from assay.builder.manifest_diff import compare_manifests
from assay.builder.side import Side

_MAX_REASONS = 4
_LIBPAL_FILE = "the file's SHA-256"


def compare(a: Side, b: Side) -> Difference:
    """Compare two sides; what only one of them can know is left out."""
    sections = tuple(found for found in _sections(a, b) if found.changes)
    measured = _measured(a, b)
    same = not sections and measured is not Measured.DIFFERENT and _have_in_common(a, b)
    cause = _cause(a, b, sections, measured) + _contradiction(sections)
    return Difference(a.label, b.label, sections, same, measured, cause)


def _sections(a: Side, b: Side) -> Iterator[Section]:
    yield from _manifest_sections(a, b)
    yield section(Topic.LIBPAL, _libpal(a, b))
    yield section(Topic.ENCLAVE, _enclave(a, b))
    yield section(Topic.WHEELS, _wheels(a, b))
    yield section(
        Topic.INPUTS, [] if a.inputs is None or b.inputs is None else changes_of(a.inputs, b.inputs)
    )
    yield section(Topic.RECIPE, _facts(a, b))
    yield section(Topic.SIGSTRUCT, _sigstruct(a, b))
    yield section(Topic.FOLDER, [*_doubts("A", a), *_doubts("B", b)])


def _manifest_sections(a: Side, b: Side) -> tuple[Section, ...]:
    left, right = a.manifest_sha256, b.manifest_sha256
    if left is None or right is None or left == right:
        return ()
    if a.manifest is None or b.manifest is None:
        note = "the text itself is not at hand on both sides"
        return (section(Topic.MANIFEST, [Change("SHA-256", left.hex(), right.hex(), note)]),)
    files, keys, order = compare_manifests(a.manifest, b.manifest)
    if not (files.count or keys.count or order.count):
        note = "the same content in another spelling: white space, quotes or comments"
        order = section(Topic.ORDER, [Change("the text", None, None, note)])
    return replace(files, changes=tuple(_with_origins(files.changes, a, b))), keys, order


def _with_origins(changes: tuple[Change, ...], a: Side, b: Side) -> Iterator[Change]:
    for change in changes:
        came_from = [b.origins.get(change.what), a.origins.get(change.what)]
        known = next((f"from {origin}" for origin in came_from if origin is not None), "")
        note = "; ".join(text for text in (known, change.note) if text)
        yield Change(change.what, change.a, change.b, cut(note))


def _libpal(a: Side, b: Side) -> list[Change]:
    if a.libpal_sha256 is None or b.libpal_sha256 is None or a.libpal_sha256 == b.libpal_sha256:
        return []
    hashes = (a.libpal_sha256.hex(), b.libpal_sha256.hex())
    if a.image is None or b.image is None:
        return [Change(_LIBPAL_FILE, *hashes)]
    loaded = changes_of(_image_texts(a.image), _image_texts(b.image))
    note = "" if loaded else "what is loaded, and so measured, is equal"
    return [Change(_LIBPAL_FILE, *hashes, note), *loaded]


def _image_texts(image: Image) -> dict[str, str]:
    texts = {"entry": hex(image.entry), "segments": str(len(image.segments))}
    for number, segment in enumerate(image.segments):
        texts |= {f"segment {number}: {name}": text for name, text in _segment_texts(segment).items()}
    return texts


def _segment_texts(segment: Segment) -> dict[str, str]:
    flags = "".join(letter for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if segment.flags & bit)
    return {
        "address": hex(segment.address),
        "flags": flags,
        "size in memory": str(segment.memory_size),
        "size in the file": str(len(segment.data)),
        "SHA-256 of its bytes": hashlib.sha256(segment.data).hexdigest(),
    }


def _enclave(a: Side, b: Side) -> list[Change]:
    if a.options is None or b.options is None:
        return []
    texts = [
        {
            "enclave size": f"{options.enclave_size} bytes",
            "threads": str(options.max_threads),
            "EDMM": "on" if options.edmm else "off",
        }
        for options in (a.options, b.options)
    ]
    return changes_of(*texts)


def _wheels(a: Side, b: Side) -> list[Change]:
    if a.wheels is None or b.wheels is None:
        return []
    texts = [
        {name: f"{wheel.version} ({wheel.file}, sha256 {wheel.sha256.hex()})" for name, wheel in side.items()}
        for side in (a.wheels, b.wheels)
    ]
    return changes_of(*texts)


def _facts(a: Side, b: Side) -> list[Change]:
    found = changes_of(a.facts, b.facts, both=True)
    if a.manifest is None or b.manifest is None:
        return found
    return [change for change in found if change.what != "trusted_files_sha256"]  # the files are named


def _sigstruct(a: Side, b: Side) -> list[Change]:
    found = changes_of(a.launch, b.launch, both=True)
    if a.signed is not None and b.signed is not None and a.signed != b.signed:
        found.append(Change("signed", *("yes" if side.signed else "no" for side in (a, b))))
    return found


def _doubts(letter: str, side: Side) -> list[Change]:
    return [Change(cut(f"{letter}: {doubt.what}"), doubt.a, doubt.b, doubt.note) for doubt in side.doubts]


def _evidence(a: Side, b: Side, of: Callable[[Side], bytes | None]) -> bool | None:
    """Whether both have equal measured evidence of one kind; None if one of them has none."""
    left, right = of(a), of(b)
    return None if left is None or right is None else left == right


def _measured(a: Side, b: Side) -> Measured:
    manifest = _evidence(a, b, lambda side: side.manifest_sha256)
    libpal = _loaded_equally(a, b)
    enclave = _evidence(a, b, lambda side: side.label.mr_enclave)
    if manifest is False or libpal is False:
        return Measured.DIFFERENT
    if manifest and libpal:
        return Measured.EQUAL
    if enclave is None:
        return Measured.UNKNOWN
    return Measured.EQUAL if enclave else Measured.DIFFERENT


def _loaded_equally(a: Side, b: Side) -> bool | None:
    """Whether libpal's segments are equal; None if that is not known: another file may load the same."""
    equal = _evidence(a, b, lambda side: side.libpal_sha256)
    if equal is not False:
        return equal
    if a.image is None or b.image is None:
        return None
    return a.image == b.image


def _have_in_common(a: Side, b: Side) -> bool:
    kinds: tuple[Callable[[Side], bytes | None], ...] = (
        lambda side: side.label.mr_enclave,
        lambda side: side.manifest_sha256,
    )
    return any(_evidence(a, b, kind) is not None for kind in kinds)


def _cause(a: Side, b: Side, sections: tuple[Section, ...], measured: Measured) -> str:
    enclave = _evidence(a, b, lambda side: side.label.mr_enclave)
    reasons = "; ".join(_reasons(sections))
    if measured is Measured.DIFFERENT and enclave is True:
        return f"MRENCLAVE is said to be equal, which cannot be: {reasons}."
    if measured is Measured.DIFFERENT:
        if not reasons:
            return "MRENCLAVE differs, and nothing else that both say: compare the builds or their manifests."
        known = "MRENCLAVE differs" if enclave is False else "MRENCLAVE must differ, whatever else there is,"
        return f"{known} because {reasons}."
    if enclave is False:
        return _layout_cause(a, b)
    outside = _outside(sections)
    if enclave is True:
        return f"MRENCLAVE is equal{outside}."
    if not _have_in_common(a, b):
        return f"Nothing that is measured is known of both, so nothing follows for MRENCLAVE{outside}."
    return f"The manifests are equal, and so is MRENCLAVE if libpal is{outside}."


def _layout_cause(a: Side, b: Side) -> str:
    versions = [side.facts.get("gramine_version", "unknown") for side in (a, b)]
    said = f"A {cut(versions[0])}, B {cut(versions[1])}"
    return (
        "MRENCLAVE differs although the manifest and libpal are equal: the layout differs, as it does between "
        f"versions of Gramine ({said}), or one of the two values is wrong."
    )


def _contradiction(sections: tuple[Section, ...]) -> str:
    """A sentence on a folder that does not hold what it says, if there is one."""
    for found in sections:
        if found.topic is Topic.FOLDER:
            first = found.changes[0]
            more = f" (and {found.count - 1} more)" if found.count > 1 else ""
            return f" But a folder contradicts itself, {first.what}: {first.note}{more}."
    return ""


def _outside(sections: tuple[Section, ...]) -> str:
    topics = [str(found.topic) for found in sections]
    return f"; what differs is not measured: {', '.join(topics)}" if topics else ", and nothing else differs"


def _reasons(sections: tuple[Section, ...]) -> list[str]:
    by_topic = {found.topic: found for found in sections}
    told = [_reason(by_topic[topic]) for topic in Topic if topic in by_topic and topic.measured]
    told = [reason for reason in told if reason]
    if Topic.MANIFEST in by_topic and not by_topic.keys() & {Topic.FILES, Topic.ORDER}:
        told += [
            f"{change.what} differs"
            for change in (by_topic[Topic.RECIPE].changes if Topic.RECIPE in by_topic else ())
            if change.what in ("trusted_files_sha256", "source_sha256", "recipe_sha256", "lock_sha256")
        ]
    return told[:_MAX_REASONS]


def _reason(found: Section) -> str:
    first = found.changes[0]
    more = f" (and {found.count - 1} more)" if found.count > 1 else ""
    match found.topic:
        case Topic.FILES:
            return f"the trusted file {first.what} {_verb(first)}{_origin(first)}{more}"
        case Topic.MANIFEST:
            return f"the manifest's {first.what} {_verb(first)}{more}"
        case Topic.ORDER:
            return f"{first.what} in the manifest: {first.note}{more}"
        case Topic.LIBPAL if len(found.changes) > 1:
            return f"libpal's {found.changes[1].what} differs"
        case Topic.LIBPAL if not first.note:
            return "libpal is another file"
        case _:
            return ""  # the enclave's options stand in the manifest, which is named already


def _verb(change: Change) -> str:
    if change.a is None:
        return "is only in B"
    return "is only in A" if change.b is None else "differs"


def _origin(change: Change) -> str:
    return f" ({change.note})" if change.note else ""
