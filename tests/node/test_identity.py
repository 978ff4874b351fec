"""Keys: who may read them, when they are made, and which signatures count."""

import os
from pathlib import Path

import pytest

from node.errors import ConfigError
from node.identity import Identity, SodiumVerifier

ORDER = 2**252 + 27742317777372353535851937790883648493
"""L, the order of the base point (RFC 8032, section 5.1)."""

MESSAGE = b"one kilowatt hour"

# Every encoding of a point whose order divides 8, the canonical ones first: for these some
# verifiers accept a signature of every message ("Taming the many EdDSAs", section 3).
SMALL_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
]


@pytest.fixture
def identity() -> Identity:
    return Identity(bytes(range(32)))


def test_key_file_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity.key"

    made = Identity.load_or_create(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load_or_create(path).public_key == made.public_key
    assert Identity.load(path).public_key == made.public_key
    assert [each.name for each in path.parent.iterdir()] == ["identity.key"]


def test_key_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Identity.load_or_create(tmp_path / "identity.key")
    finally:
        os.umask(before)

    assert (tmp_path / "identity.key").stat().st_mode & 0o777 == 0o600


def test_two_homes_have_different_keys(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path / "first")
    assert first.public_key != Identity.load_or_create(tmp_path / "second").public_key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_key_that_others_may_use_is_refused_with_the_remedy(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    Identity.load_or_create(path)
    path.chmod(mode)

    with pytest.raises(ConfigError, match=rf"mode {mode:o}.*chmod 600"):
        Identity.load_or_create(path)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_file_of_another_length_is_no_key_and_is_not_replaced(size: int, tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.touch(mode=0o600)
    path.write_bytes(bytes(size))

    with pytest.raises(ConfigError, match=rf"{size} bytes.*backup"):
        Identity.load_or_create(path)
    assert path.read_bytes() == bytes(size)


def test_power_cut_while_a_key_is_made_leaves_no_broken_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    (tmp_path / "identity.key.draft").write_bytes(b"half")

    made = Identity.load_or_create(path)

    assert Identity.load(path).public_key == made.public_key


def test_key_that_somebody_makes_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "identity.key"
    other = bytes(range(32))

    def sync(_: int) -> None:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(other)

    monkeypatch.setattr(os, "fsync", sync)

    with pytest.raises(FileExistsError):
        Identity.load_or_create(path)
    assert path.read_bytes() == other


def test_own_signature_verifies(identity: Identity) -> None:
    signature = identity.sign(MESSAGE)
    assert len(signature) == 64
    assert SodiumVerifier().verify(identity.public_key, MESSAGE, signature)


def test_signature_holds_for_its_message_and_key_only(identity: Identity) -> None:
    verifier, signature = SodiumVerifier(), identity.sign(MESSAGE)
    other = Identity(bytes(32)).public_key

    assert not verifier.verify(identity.public_key, MESSAGE + b"\0", signature)
    assert not verifier.verify(identity.public_key, b"", signature)
    assert not verifier.verify(other, MESSAGE, signature)


@pytest.mark.parametrize("bit", range(0, 512, 37))
def test_signature_with_one_bit_changed_is_refused(bit: int, identity: Identity) -> None:
    changed = bytearray(identity.sign(MESSAGE))
    changed[bit // 8] ^= 1 << bit % 8

    assert not SodiumVerifier().verify(identity.public_key, MESSAGE, bytes(changed))


@pytest.mark.parametrize("size", [0, 1, 63, 65, 128])
def test_signature_of_another_length_is_refused(size: int, identity: Identity) -> None:
    signature = (identity.sign(MESSAGE) * 2)[:size]
    assert not SodiumVerifier().verify(identity.public_key, MESSAGE, signature)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_of_another_length_verifies_nothing(size: int, identity: Identity) -> None:
    key = (identity.public_key * 2)[:size]
    assert not SodiumVerifier().verify(key, MESSAGE, identity.sign(MESSAGE))


def test_signature_with_the_group_order_added_is_refused(identity: Identity) -> None:
    signature = identity.sign(MESSAGE)
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    malleated = signature[:32] + scalar.to_bytes(32, "little")

    assert not SodiumVerifier().verify(identity.public_key, MESSAGE, malleated)


@pytest.mark.parametrize("key", SMALL_ORDER, ids=bytes.hex)
def test_key_of_small_order_verifies_nothing(key: bytes) -> None:
    verifier = SodiumVerifier()
    for point in SMALL_ORDER:
        for message in (MESSAGE, b"", bytes(range(16))):
            assert not verifier.verify(key, message, point + bytes(32))


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_commitment_of_small_order_is_refused(point: bytes, identity: Identity) -> None:
    signature = point + identity.sign(MESSAGE)[32:]
    assert not SodiumVerifier().verify(identity.public_key, MESSAGE, signature)


@pytest.mark.parametrize("last", [0x7F, 0xFF])
def test_point_that_is_not_reduced_verifies_nothing(last: int, identity: Identity) -> None:
    unreduced = bytes([0xF0, *[0xFF] * 30, last])
    assert not SodiumVerifier().verify(unreduced, MESSAGE, identity.sign(MESSAGE))


def test_rfc_8032_vectors_hold() -> None:
    # Section 7.1, tests 1 and 2.
    vectors = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
    ]
    for seed, public, message, signature in vectors:
        identity = Identity(bytes.fromhex(seed))
        assert identity.public_key.hex() == public
        assert identity.sign(bytes.fromhex(message)).hex() == signature
        assert SodiumVerifier().verify(
            identity.public_key, bytes.fromhex(message), bytes.fromhex(signature)
        )
