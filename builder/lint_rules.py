"""The linter's rules: their names, why each matters and what to do. How each is checked: :mod:`assay.builder.lint`.

Names are stable: recipes, scripts and published statements use them.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: lower-case kebab-case.
        why: what an attacker or an accident gains.
        fix: what to write instead.
        allowable: False where no reason helps, because Gramine refuses to start such an enclave.
    """

    name: str
    why: str
    fix: str
    allowable: bool = True


_RULES = (
    Rule(
        "debug",
        "the host can read and write the memory of a debug enclave, so it keeps no secret and proves nothing",
        "set sgx.debug = false",
    ),
    Rule(
        "cmdline-argv",
        "the host chooses the arguments, and nothing of them is measured",
        "remove the option and write the arguments into loader.argv",
    ),
    Rule(
        "host-env",
        "the host chooses the whole environment, LD_PRELOAD and PYTHONPATH included",
        "remove the option and write every variable into loader.env",
    ),
    Rule(
        "manifest-keys",
        "a key in the manifest is public, so whatever it encrypts is open to everyone",
        'remove fs.insecure__keys; seal with key_name = "_sgx_mrenclave" or provision the key after attestation',
    ),
    Rule(
        "insecure-option",
        "Gramine itself calls it insecure: it weakens a check or takes the host's word",
        "remove the option; also when it is switched off, it has no place in a release",
    ),
    Rule(
        "experimental-option",
        "what it does may change or be incomplete, and nobody promises that it is safe",
        "remove the option",
    ),
    Rule(
        "unreviewed-option",
        "the linter does not know what it lets in",
        "remove the option, or allow it with what it does as the reason",
    ),
    Rule(
        "argv-src-file",
        "Gramine does not check the file against the trusted files, so the host chooses the arguments",
        "remove it and write the arguments into loader.argv",
    ),
    Rule(
        "env-src-file",
        "Gramine does not check the file against the trusted files, so the host chooses the environment",
        "remove it and write every variable into loader.env",
    ),
    Rule(
        "env-passthrough",
        "the value comes from the host and is not measured; Gramine does not warn of it",
        "give the variable a literal value, or read it from a trusted file",
    ),
    Rule(
        "log-level",
        "the host reads what the enclave does, with paths and arguments",
        'set loader.log_level = "error" or "none"',
    ),
    Rule(
        "allowed-files",
        "the host can change these files at any time, unseen",
        "list them in sgx.trusted_files with their SHA-256, or put them on an encrypted mount or tmpfs",
    ),
    Rule(
        "file-check-policy",
        "files that nobody listed can be opened, with whatever content the host gives them",
        'set sgx.file_check_policy = "strict" or remove the option',
    ),
    Rule(
        "unpinned-file",
        "its content is hashed on the machine that signs, so the measurement depends on that machine",
        "write {uri, sha256} with the file's SHA-256 in lower-case hex",
    ),
    Rule(
        "trusted-directory",
        "it expands to whatever lies there on the machine that signs; unreadable files are left out in silence",
        "list its files one by one with their SHA-256",
    ),
    Rule(
        "duplicate-file",
        "one file has two digests; Gramine refuses that or takes the first",
        "list every file once",
    ),
    Rule(
        "entrypoint-unpinned",
        "without its digest the LibOS is hashed on the machine that signs, and need not be the one you reviewed",
        "write loader.entrypoint = {uri, sha256} with the SHA-256 of libsysdb.so",
    ),
    Rule(
        "entrypoint-unverified",
        "the program that starts first is no trusted file that a mount makes visible, so it is not measured",
        "mount a folder that holds it, and list it in sgx.trusted_files with its SHA-256",
    ),
    Rule(
        "non-relative-uri",
        "the measurement depends on where things lie on a machine, or reaches outside the build's folder",
        "use file: and a path relative to the build's folder, without ..",
    ),
    Rule(
        "root-default",
        "the enclave sees the folder it was started in as its root, and the host decides what is there",
        'set fs.root = {type = "tmpfs"} and mount only what is needed',
    ),
    Rule(
        "host-root-mount",
        "the whole host, or the whole folder it was started in, becomes visible inside",
        "mount only the folders that are needed",
    ),
    Rule(
        "host-writable-mount",
        "the host can change what lies below this mount while the enclave runs",
        "mount it as tmpfs, or as encrypted with the enclave's own key",
    ),
    Rule(
        "unverified-mount",
        "no trusted file lies below it: its names come from the host, unverified, and nothing else can be read there",
        "remove the mount, or list the files that are needed from it",
    ),
    Rule(
        "hidden-mount",
        "a later mount covers an earlier one, so that files you reviewed are not those that are opened",
        "order mounts from the shortest path to the longest, each path once",
    ),
    Rule(
        "mount-type",
        "only chroot, tmpfs and encrypted mounts are known; others share memory or devices with the host",
        "use tmpfs or encrypted",
    ),
    Rule(
        "mount-path",
        "a mount that does not say where it belongs or what it shows is refused or means something else than meant",
        "give it an absolute path without . and .., and a uri unless it is a tmpfs",
    ),
    Rule(
        "encrypted-key",
        "others than this very enclave can decrypt the files: the signer's other enclaves, or whoever has the key",
        'set key_name = "_sgx_mrenclave"',
    ),
    Rule(
        "protected-files",
        "the old form of encrypted mounts; current versions of Gramine do not know it",
        'use an encrypted mount with key_name = "_sgx_mrenclave"',
    ),
    Rule(
        "seal-key",
        "other masks let enclaves with other attributes, in the worst case debug enclaves, derive the same sealing key",
        "remove sgx.seal_key",
    ),
    Rule(
        "remote-attestation",
        "without quotes nothing can be proven to anyone",
        'set sgx.remote_attestation = "dcap"',
    ),
    Rule(
        "few-threads",
        "Gramine itself needs threads (IPC, async, TLS handshakes): with fewer than 4 the enclave can hang",
        "set sgx.max_threads to 4 or more",
    ),
    Rule(
        "max-threads",
        "Gramine refuses to start: the number must be spelled, and be 1 to 4096",
        "set sgx.max_threads to a number from 4 to 4096",
        allowable=False,
    ),
    Rule(
        "enclave-size",
        "Gramine refuses to start, or signer and loader read another size: it must be spelled, and a power of two",
        'set sgx.enclave_size to a power of two up to "1024G": digits and K, M or G',
        allowable=False,
    ),
    Rule(
        "enable-stats",
        "a release build of Gramine refuses to start, and a debug build tells the host too much",
        "set sgx.enable_stats = false",
        allowable=False,
    ),
    Rule(
        "use-exinfo",
        "without it a memory fault ends the enclave instead of reaching the program",
        "set sgx.use_exinfo = true",
    ),
    Rule(
        "host-names",
        "host name and name servers come from the host",
        "remove sys.enable_extra_runtime_domain_names_conf and use trusted files",
    ),
    Rule(
        "sigterm-injection",
        "the host can send SIGTERM into the enclave at any moment",
        "remove sys.enable_sigterm_injection",
    ),
    Rule(
        "missing-option",
        "Gramine's own tools refuse a manifest without it",
        "write fs.mounts and libos.entrypoint",
    ),
    Rule(
        "missing-default",
        "the tools add it when they sign, and their defaults change between versions",
        "spell the default",
    ),
    Rule(
        "not-canonical",
        "the tools write the text anew, so what they sign is not what was reviewed",
        "write the manifest as tomli_w writes it, without comments",
    ),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}
"""Every rule by its name."""
