"""`meshlib cert`: certificates as an operator meets them, in files and on ports."""

from __future__ import annotations

import os
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshlib.errors import IdentityError
from meshlib_control.current import home_folder, read_current

from .certs import app as _app
from .certs import keep
from .failure import FAILURE, UNREACHABLE, USAGE, Failure
from .options import OutputOption
from .output import Format, document, say, write, write_table

if TYPE_CHECKING:
    from cryptography import x509

app = _app

TIMEOUT = 10.0  # seconds for a port to show its certificate

_Target = Annotated[str, typer.Argument(metavar="FILE|HOST:PORT", help="A PEM file, or a port that speaks TLS.")]
_Roots = Annotated[str, typer.Option("--root-cert", metavar="FILE", help="The roots to trust, PEM; the mesh's if not given.")]


@app.command("show")
def show(target: _Target, output: OutputOption = Format.TABLE) -> None:
    """Show the certificates in a file, or the one that a port shows.

    Example: meshlib cert show 127.0.0.1:9080
    """
    found = [_described(one) for one in _certificates(target)]
    if output is not Format.TABLE:
        write(document("CertificateList", items=found), output)
        return
    columns = ("identity", "issuer", "serial", "notAfter", "left", "key")
    write_table(
        ("IDENTITY", "ISSUER", "SERIAL", "NOT AFTER", "LEFT", "KEY"), [[one[name] for name in columns] for one in found]
    )


@app.command("verify")
def verify(
    target: _Target, root_cert: _Roots = "", revoked: Annotated[str, typer.Option("--crl", metavar="FILE")] = ""
) -> int:
    """Check whether members of the mesh would accept a certificate now: chain, times, identity, revocation.

    Of a port only the leaf is seen, so that an intermediate must be among the roots. Exit code 1 says no, and why.

    Example: meshlib cert verify /run/ratings/cert-chain.pem
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from meshlib.identity.chain import proven_leaf

    chain = [one.public_bytes(Encoding.DER) for one in _certificates(target)]
    try:
        proven = proven_leaf(
            chain, _read(root_cert or _roots_of_the_mesh()), time.time(), 0.0, _read(revoked) if revoked else b""
        )
    except IdentityError as error:
        raise Failure(f"{target}: {error}", f"meshlib cert show {target}", FAILURE) from error
    say(f"{target}: {proven.leaf.spiffe_id}, good for {_left(proven.leaf.not_after)}")
    return 0


@app.command("rotate")
def rotate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of `meshlib cert keep`.")],
    token_file: Annotated[str, typer.Option("--token-file", metavar="FILE", help="Holds a join token.")] = "",
    instance: Annotated[str, typer.Option("--instance", metavar="NAME", help="Whose it is, for `meshlib ps`.")] = "",
    control_plane: Annotated[str, typer.Option("--control-plane", metavar="HOST:PORT", help="Where to ask.")] = "",
    root_cert: Annotated[str, typer.Option("--root-cert", metavar="FILE", help="The root certificate, PEM.")] = "",
) -> int:
    """Replace the certificate and key in a folder now, with the newest roots beside them. What reads the files follows.

    Processes with the library in them renew by themselves; `meshlib ca rotate` makes all of them renew.

    Example: meshlib cert rotate /run/ratings --token-file ratings.token
    """
    return keep(folder, token_file, instance, control_plane, root_cert, once=True)


def _certificates(target: str) -> list[x509.Certificate]:
    from cryptography import x509

    path = Path(target)
    if not path.exists() and ":" in target:
        return [x509.load_der_x509_certificate(_shown_at(target))]
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Failure(f"{target} holds no certificate: {error}", "a PEM file, or HOST:PORT", USAGE) from error


def _shown_at(target: str) -> bytes:
    host, _, port = target.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is to be looked at, not believed
    # Some servers of meshes answer only those who speak a protocol of theirs.
    context.set_alpn_protocols(["istio", "h2", "http/1.1"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), TIMEOUT) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""
    except ValueError as error:
        raise Failure(f"{target} is neither a file nor HOST:PORT", "meshlib cert show FILE", USAGE) from error
    except OSError as error:
        raise Failure(f"{target} shows no certificate: {error}", "meshlib ps", UNREACHABLE) from error


def _roots_of_the_mesh() -> str:
    given = os.environ.get("MESHLIB_ROOT_CERT")
    current = None if given else read_current(home_folder(os.environ))
    if not given and current is None:
        raise Failure("which roots? No control plane of this user runs", "--root-cert FILE", USAGE)
    return given or (current.root_cert if current else "")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", "another file", USAGE) from error


def _described(certificate: x509.Certificate) -> dict[str, Any]:
    from cryptography import x509

    names = [one.value for one in certificate.extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    uris = [uri for found in names for uri in found.get_values_for_type(x509.UniformResourceIdentifier)]
    ends = certificate.not_valid_after_utc
    return {
        "identity": ",".join(uris) or certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "notBefore": certificate.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
        "notAfter": ends.isoformat().replace("+00:00", "Z"),
        "left": _left(ends.timestamp()),
        "key": _key(certificate.public_key()),
    }


def _left(not_after: float) -> str:
    from meshlib.identity.rotation import span

    left = not_after - time.time()
    return span(left) if left > 0 else "over"


def _key(key: Any) -> str:
    curve = getattr(key, "curve", None)
    return (
        str(curve.name) if curve is not None else f"{type(key).__name__.strip('_').removesuffix('PublicKey')} {key.key_size}"
    )
