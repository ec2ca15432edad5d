"""The credential of a process that has a certificate: what it proves, and each way in which it proves nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jwt
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from meshlib.errors import CredentialError, IdentityError
from meshlib.identity import assertion
from meshlib.identity.assertion import LIFETIME, LONGEST, MOST_CERTIFICATES, AssertionRefused, is_assertion, make, verify

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()
REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
Key = Any
Name = x509.UniformResourceIdentifier


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Issuer:
    """A CA that writes whatever a test wants."""

    def __init__(self, name: str = "root", parent: Issuer | None = None) -> None:
        self.key = new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        usage = x509.KeyUsage(
            **dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False),
            **dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False),
            key_cert_sign=True,
            crl_sign=True,
        )
        self.certificate = signer.sign(
            self.key,
            self.name,
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (usage, True),
                (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
            ],
            life=timedelta(days=10),
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, key: Key, subject: x509.Name, extensions: list[Any], *, life: timedelta) -> x509.Certificate:
        begin = datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=2)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + life)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def leaf(
        self,
        key: Key,
        *,
        names: tuple[x509.GeneralName, ...] = (Name(REVIEWS),),
        uses: tuple[x509.ObjectIdentifier, ...] = (SERVER, CLIENT),
        authority: bool = False,
        life: timedelta = timedelta(hours=1),
    ) -> str:
        extensions: list[Any] = [(x509.BasicConstraints(ca=authority, path_length=None), True)]
        extensions += [(x509.SubjectAlternativeName(names), True)] if names else []
        extensions += [(x509.ExtendedKeyUsage(uses), False)] if uses else []
        certificate = self.sign(key, x509.Name([]), extensions, life=life)
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


ROOT = Issuer()
KEY = new_key()


def der64(chain: str) -> list[str]:
    certificates = x509.load_pem_x509_certificates(chain.encode())
    return [base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode() for one in certificates]


def signed(
    *,
    chain: str = "",
    key: Key = None,
    algorithm: str = "ES256",
    header: dict[str, Any] | None = None,
    without: str = "",
    **claims: Any,
) -> str:
    """An assertion with changes: each claim, header fields, the key that signs."""
    content = {"iss": assertion.ISSUER, "aud": assertion.AUDIENCE, "sub": REVIEWS, "jti": "1"}
    content |= {"iat": NOW, "nbf": NOW, "exp": NOW + LIFETIME} | claims
    content.pop(without, None)
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = 1 << 20
    first = {"alg": algorithm, "x5c": der64(chain or ROOT.leaf(KEY)), **(header or {})}
    return jwt.encode(first, content, ECKey.import_key(pem(key or KEY)), registry=registry)


def whom(credential: str, now: float = NOW) -> str:
    return str(verify(credential, ROOT.pem, ("cluster.local",), now))


def refusal(credential: str, now: float = NOW) -> str:
    with pytest.raises(AssertionRefused) as refused:
        verify(credential, ROOT.pem, ("cluster.local",), now)
    return str(refused.value)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_made_here_and_checked_there() -> None:
    """Make, then verify, is the certificate's identity."""
    credential = make(ROOT.leaf(KEY), pem(KEY), NOW, "number")
    assert whom(credential) == REVIEWS
    assert is_assertion(credential)


def test_what_it_says() -> None:
    """Audience of Istio's CA, a minute to live, a number of its own, the certificate in the header, and no key."""
    credential = make(ROOT.leaf(KEY), pem(KEY), NOW + 0.9, "number")
    header, claims = (json.loads(base64.urlsafe_b64decode(text + "==")) for text in credential.split(".")[:2])
    assert set(header) == {"alg", "typ", "x5c"}
    assert claims == {
        "iss": "meshlib-workload",
        "aud": "istio-ca",
        "sub": REVIEWS,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 60,
        "jti": "number",
    }


def test_intermediates_lead_to_the_root() -> None:
    """A leaf of an intermediate counts if the intermediate comes along, and not without it."""
    between = Issuer("intermediate", ROOT)
    leaf = between.leaf(KEY)
    assert whom(signed(chain=leaf + between.pem.decode())) == REVIEWS
    assert "is not one that this root vouches for" in refusal(signed(chain=leaf))


def test_the_helper_signs_what_counts() -> None:
    """So that each refusal below has the one reason it is about."""
    assert whom(signed()) == REVIEWS


def test_another_root() -> None:
    """After the control plane was installed anew, for example; of the same name too."""
    said = refusal(signed(chain=Issuer().leaf(KEY)))
    assert "is not one that this root vouches for" in said
    assert "meshlib token create" in said


def test_a_stranger_who_appends_our_root() -> None:
    """A self-made leaf is not better for the root beside it."""
    assert "vouches" in refusal(signed(chain=Issuer().leaf(KEY) + ROOT.pem.decode()))


def test_a_leaf_as_authority() -> None:
    """A workload cannot sign certificates for others with its own."""
    workload = Issuer("workload")
    workload.key = KEY
    fake = workload.leaf(other := new_key(), names=(Name(REVIEWS.replace("reviews", "admin")),))
    assert "vouches" in refusal(signed(chain=fake + ROOT.leaf(KEY), key=other))


def test_a_certificate_of_an_authority() -> None:
    """CA certificates are for signing others."""
    assert "vouches" in refusal(signed(chain=ROOT.leaf(KEY, authority=True)))


@pytest.mark.parametrize("late", [3481, 4000, 90_000])
def test_an_expired_certificate(late: int) -> None:
    """Both times are told, and the way back in."""
    said = refusal(signed(iat=NOW + late, nbf=NOW + late, exp=NOW + late + 60), NOW + late + 60)
    assert f"the certificate of {REVIEWS} cannot be used: it has expired: it ended at 2026-03-01 12:58:00 UTC" in said
    assert "Join again with a token: meshlib token create" in said


def test_a_certificate_of_the_future() -> None:
    """A clock is off."""
    early = dict.fromkeys(("iat", "nbf"), NOW - 300) | {"exp": NOW - 240}
    assert "it is not yet valid: it begins at" in refusal(signed(**early), NOW - 300)


def test_the_edge_of_a_certificates_life() -> None:
    """Clocks may differ by a minute."""
    end = NOW + 3480
    late = signed(iat=end + 60, nbf=end + 60, exp=end + 120)
    assert whom(late, end + 60) == REVIEWS
    assert "expired" in refusal(late, end + 61)
    early = signed(iat=NOW - 180, nbf=NOW - 180, exp=NOW - 120)
    assert whom(early, NOW - 180) == REVIEWS
    assert "not yet valid" in refusal(early, NOW - 181)


@pytest.mark.parametrize(
    "names",
    [
        (x509.DNSName("reviews"),),
        (Name("https://cluster.local/ns/default/sa/reviews"),),
        (Name(REVIEWS), Name("https://example.org/")),
        (Name(REVIEWS), Name(REVIEWS + "2")),
    ],
    ids=["DNS", "https", "SPIFFE and https", "two"],
)
def test_exactly_one_identity(names: tuple[x509.GeneralName, ...]) -> None:
    """X.509-SVID 2: one URI, of the scheme spiffe."""
    assert "SPIFFE id" in refusal(signed(chain=ROOT.leaf(KEY, names=names)))


def test_a_certificate_without_names() -> None:
    """Nobody in particular."""
    refusal(signed(chain=ROOT.leaf(KEY, names=())))


@pytest.mark.parametrize("uses", [(SERVER,), ()])
def test_a_certificate_for_servers_only(uses: tuple[x509.ObjectIdentifier, ...]) -> None:
    """The control plane's own certificate is no workload's."""
    said = refusal(signed(chain=ROOT.leaf(KEY, uses=uses)))
    assert "clientAuth" in said or "EKU" in said or "vouches" in said


def test_another_trust_domain() -> None:
    """Same root, other mesh."""
    foreign = "spiffe://elsewhere/ns/default/sa/reviews"
    said = refusal(signed(chain=ROOT.leaf(KEY, names=(Name(foreign),)), sub=foreign))
    assert "of trust domain 'elsewhere', this one is 'cluster.local'" in said


def test_an_identity_of_another_form() -> None:
    """Ours name a service account."""
    agent = "spiffe://cluster.local/agent"
    assert "is not of the form" in refusal(signed(chain=ROOT.leaf(KEY, names=(Name(agent),)), sub=agent))


@pytest.mark.parametrize(
    "make_key",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
    ],
    ids=["RSA", "P-384", "Ed25519"],
)
def test_another_kind_of_key(make_key: Callable[[], Key]) -> None:
    """One algorithm, one curve."""
    said = refusal(signed(chain=ROOT.leaf(make_key())))
    assert "must be P-256" in said or "vouches" in said


def test_another_key_signs() -> None:
    """A certificate is public; who has it alone proves nothing."""
    assert "is not signed with the key of the certificate" in refusal(signed(key=new_key()))


def test_a_changed_claim() -> None:
    """The signature covers them."""
    first, claims, signature = signed().split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"exp": NOW + 120}
    assert "is not signed" in refusal(f"{first}.{part(changed)}.{signature}")


def test_no_signature() -> None:
    """`none` and its spellings."""
    _, claims, _ = signed().split(".")
    for algorithm in ("none", "None", "", None):
        first = part({"alg": algorithm, "typ": "JWT", "x5c": der64(ROOT.leaf(KEY))})
        assert "ES256" in refusal(f"{first}.{claims}.")


def test_the_public_key_as_a_shared_secret() -> None:
    """The classic confusion: HMAC with what everybody can read in the certificate."""
    first, claims, _ = signed().split(".")
    first = part(json.loads(base64.urlsafe_b64decode(first + "==")) | {"alg": "HS256"})
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    proof = base64.urlsafe_b64encode(hmac.digest(public, f"{first}.{claims}".encode(), hashlib.sha256)).rstrip(b"=")
    assert "ES256" in refusal(f"{first}.{claims}.{proof.decode()}")


@pytest.mark.parametrize("field", ["jwk", "jku", "x5u", "kid", "crit", "b64", "x5t"])
def test_a_header_that_brings_more(field: str) -> None:
    """Keys come from the certificate, from nowhere else."""
    first, claims, signature = signed().split(".")
    first = part(json.loads(base64.urlsafe_b64decode(first + "==")) | {field: "https://example.org/"})
    assert "and nothing else" in refusal(f"{first}.{claims}.{signature}")


@pytest.mark.parametrize("certificates", [[], "MIIB", None, [1], ["ä"], ["!!!"], ["bm9uc2Vuc2U="], ["bm8="] * 5])
def test_a_chain_that_is_none(certificates: object) -> None:
    """Refused by form, before anything is computed."""
    _, claims, signature = signed().split(".")
    first = part({"alg": "ES256", "typ": "JWT", "x5c": certificates})
    assert refusal(f"{first}.{claims}.{signature}")


def test_sizes_are_limited() -> None:
    """Before anything is decoded, and so many certificates at most."""
    long = signed(chain=ROOT.leaf(KEY) + ROOT.leaf(new_key()) * 12)
    assert len(long) > LONGEST
    assert f"at most {LONGEST} are read" in refusal(long)
    many = signed(chain=ROOT.leaf(KEY) + ROOT.leaf(new_key()) * MOST_CERTIFICATES)
    assert len(many) < LONGEST
    assert f"1 to {MOST_CERTIFICATES} certificates" in refusal(many)


@pytest.mark.parametrize(
    ("claim", "value", "words"),
    [
        ("iss", "meshlib", "issuer is 'meshlib'"),
        ("iss", None, "issuer is None"),
        ("aud", "reviews", "audience 'reviews', needed is 'istio-ca'"),
        ("aud", ["istio-ca", "reviews"], "audience"),
        ("sub", REVIEWS + "2", "its certificate about"),
        ("sub", "system:serviceaccount:default:reviews", "its certificate about"),
        ("exp", NOW + 301, "at most 300 s"),
        ("exp", NOW - 1, "at most 300 s"),
        ("exp", "tomorrow", "no time in 'exp'"),
        ("exp", True, "no time in 'exp'"),
        ("exp", float("nan"), "no time in 'exp'"),
        ("exp", float("inf"), "no time in 'exp'"),
        ("exp", 10**400, "no time in 'exp'"),
        ("nbf", NOW - 250, "at most 300 s"),
        ("iat", -NOW, "no time in 'iat'"),
    ],
)
def test_a_wrong_claim(claim: str, value: object, words: str) -> None:
    """Each with its own answer."""
    assert words in refusal(signed(**{claim: value}))


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "iat", "nbf", "exp"])
def test_a_missing_claim(claim: str) -> None:
    """All but the number are needed."""
    refusal(signed(without=claim))


def test_its_own_minute() -> None:
    """A minute of skew to either side, not more."""
    credential = signed()
    assert whom(credential, NOW + 119) == REVIEWS
    assert "was over 60 s ago. Set the clock" in refusal(credential, NOW + 120)
    assert whom(credential, NOW - 60) == REVIEWS
    assert "is valid in 61 s only. Set the clock" in refusal(credential, NOW - 61)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "a.b", "..", "W10.e30.x", "ä.b.c", "W1tbW1tb" * 700 + ".e30.x", "x5c.x5c.x5c"]
)
def test_what_is_no_assertion(text: str) -> None:
    """Is judged as a join token then; nothing makes the question itself fail."""
    assert not is_assertion(text)
    assert isinstance(refusal(text), str)


def test_a_header_of_brackets() -> None:
    """Python's JSON reader gives up on deep nesting in a way of its own."""
    deep = base64.urlsafe_b64encode(b"[" * 5000).decode()
    assert not is_assertion(f"{deep}.e30.x")


def test_claims_that_are_no_object() -> None:
    """Signed by a good key, and still nothing that can be read."""
    from joserfc import jws

    registry = JWSRegistry(algorithms=["ES256"])
    registry.max_header_length = LONGEST
    for content in (b"[]", b"nonsense", b"\xff", b"[" * 3000):
        header = {"alg": "ES256", "typ": "JWT", "x5c": der64(ROOT.leaf(KEY))}
        refusal(jws.serialize_compact(header, content, ECKey.import_key(pem(KEY)), registry=registry))


def test_a_refusal_is_a_credential_error() -> None:
    """As for tokens: gRPC's answer is UNAUTHENTICATED for both."""
    assert issubclass(AssertionRefused, CredentialError)


@pytest.mark.parametrize("chain", ["", "nonsense"])
def test_making_one_without_a_certificate(chain: str) -> None:
    """An error of ours, in one of our classes."""
    with pytest.raises(IdentityError, match="no assertion can be made"):
        make(chain, pem(KEY), NOW, "1")


def test_making_one_with_another_key() -> None:
    """The library's keys are P-256; others are refused before they are used."""
    key = rsa.generate_private_key(65537, 2048)
    with pytest.raises(IdentityError, match="no assertion can be made"):
        make(ROOT.leaf(key), pem(key), NOW, "1")
