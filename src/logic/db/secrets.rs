//! What both nodes of a pair make of the cluster key, each by itself, so that nothing is carried between them: the authority that
//! signs the servers' certificates, and the password of the account that replicates.
//!
//! The authority's own key is in no file: who has the cluster key has it, and nobody else. A server's key is drawn anew by each node;
//! its certificate is believed by the other one because it was signed by the same authority.
//!
//! Absent on purpose: the clock, the generator of what is drawn, the files.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use p256::elliptic_curve::sec1::ToSec1Point;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::logic::wire::derived;

const AUTHORITY: &[u8] = b"dre database ca v1";
const PASSWORD: &[u8] = b"dre database replication v1";
/// How long a server's certificate is valid.
pub const VALID: Duration = Duration::from_secs(3650 * 86_400);
/// The peer's clock may be behind.
const EARLIER: Duration = Duration::from_secs(86_400);

/// The replicating account's password: 32 characters, which is the longest that every product takes.
pub fn password(key: &[u8; 32], group: &str) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(&derived(key, PASSWORD, group)[..24]))
}

/// The pair's authority.
pub struct Authority {
    signs: SigningKey,
    public: [u8; 32],
    group: String,
}

/// What a node's server shows to the other: PEM texts.
pub struct Identity {
    pub certificate: String,
    pub key: Zeroizing<String>,
}

/// What a node draws for its server.
pub struct Drawn {
    pub secret: Zeroizing<[u8; 32]>,
    pub serial: [u8; 16],
}

impl PublicKeyData for Authority {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Authority {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.signs.sign(message).to_bytes().to_vec())
    }
}

/// A server's public key: a point of P-256.
struct Point(Box<[u8]>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut whole = DistinguishedName::new();
    whole.push(DnType::CommonName, name);
    whole
}

fn identifier(public: &[u8]) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(Sha256::digest(public)[..20].to_vec())
}

impl Authority {
    pub fn of(key: &[u8; 32], group: &str) -> Self {
        let signs = SigningKey::from_bytes(&derived(key, AUTHORITY, group));
        let public = signs.verifying_key().to_bytes();
        Self { signs, public, group: group.to_owned() }
    }

    /// Always the same, so that both nodes have the same file.
    fn parameters(&self) -> CertificateParams {
        let mut it = CertificateParams::default();
        it.not_before = date_time_ymd(2026, 1, 1);
        // RFC 5280's "no end": it is as good as the cluster key.
        it.not_after = date_time_ymd(9999, 12, 31);
        it.serial_number = Some(SerialNumber::from_slice(&[1]));
        it.distinguished_name = named(&format!("dre database authority of group {}", self.group));
        it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        it.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        it.key_identifier_method = identifier(&self.public);
        it
    }

    /// `ca.pem`.
    pub fn certificate(&self) -> Result<String, rcgen::Error> {
        Ok(pem("CERTIFICATE", self.parameters().self_signed(self)?.der()).to_string())
    }

    /// A server's own, for its addresses, valid for [`VALID`] from `now` (seconds since 1970). `Ok(None)`: what was drawn is no key (one in
    /// four thousand million is none): draw again.
    pub fn issue(
        &self,
        node: &str,
        addresses: &[IpAddr],
        drawn: &Drawn,
        now: u64,
    ) -> Result<Option<Identity>, rcgen::Error> {
        let Ok(secret) = p256::SecretKey::from_slice(&*drawn.secret) else { return Ok(None) };
        let point = Point(secret.public_key().to_sec1_point(false).as_bytes().into());
        let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
        let mut serial = drawn.serial;
        // A serial number is positive, and does not begin with a zero.
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut it = CertificateParams::default();
        it.not_before = now - EARLIER;
        it.not_after = now + VALID;
        it.serial_number = Some(SerialNumber::from_slice(&serial));
        it.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
        it.distinguished_name = named(node);
        it.is_ca = IsCa::ExplicitNoCa;
        it.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        it.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        it.use_authority_key_identifier_extension = true;
        it.key_identifier_method = identifier(&point.0);
        let certificate = it.signed_by(&point, &Issuer::from_params(&self.parameters(), self))?;
        let mut whole = Zeroizing::new(PRIVATE_KEY.to_vec());
        whole.extend_from_slice(&*drawn.secret);
        Ok(Some(Identity {
            certificate: pem("CERTIFICATE", certificate.der()).to_string(),
            key: pem("PRIVATE KEY", &whole),
        }))
    }
}

/// PKCS#8 of a P-256 key up to its 32 bytes (RFC 5208, RFC 5915 without the public half, which can be computed).
const PRIVATE_KEY: [u8; 35] = [
    0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
    0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04,
    0x20,
];

fn pem(what: &str, der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 2 + 80));
    out.push_str("-----BEGIN ");
    out.push_str(what);
    out.push_str("-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str("-----END ");
    out.push_str(what);
    out.push_str("-----\n");
    out
}

/// Until when a certificate as [`Authority::issue`] makes them is valid, `2036-11-24T04:10:21Z`; `None`: it is no such one.
pub fn valid_until(pem: &str) -> Option<String> {
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(text).ok()?;
    let (_, whole, _) = element(&der)?;
    let (_, mut rest, _) = element(whole)?;
    // version, serial number, algorithm, issuer; then how long it is valid.
    for _ in 0..4 {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, end) = element(validity)?;
    let (tag, end, _) = element(end)?;
    let digits = std::str::from_utf8(end).ok()?.strip_suffix('Z')?;
    // UTCTime has two digits of the year, and ends in 2049.
    let digits = if tag == 0x17 { format!("20{digits}") } else { digits.to_owned() };
    if digits.len() != 14 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| &digits[from..to];
    Some(format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(8, 10),
        part(10, 12),
        part(12, 14)
    ))
}

/// The first element of DER: its tag, what is in it, what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 3))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [42; 32];
    const NOW: u64 = 1_790_000_000;

    fn drawn(n: u8) -> Drawn {
        Drawn { secret: Zeroizing::new([n; 32]), serial: [n; 16] }
    }

    fn bytes(pem: &str) -> Vec<u8> {
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(text).expect("base64")
    }

    fn holds(whole: &[u8], part: &[u8]) -> bool {
        whole.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn both_nodes_have_one_authority_and_one_password_and_other_keys_and_groups_have_others() {
        let ca = |key: &[u8; 32], group: &str| Authority::of(key, group).certificate().expect("made");
        assert_eq!(ca(&KEY, "mysql"), ca(&KEY, "mysql"));
        assert_eq!(*password(&KEY, "mysql"), *password(&KEY, "mysql"));
        for (key, group) in [(&KEY, "other"), (&[43; 32], "mysql")] {
            assert_ne!(ca(key, group), ca(&KEY, "mysql"));
            assert_ne!(*password(key, group), *password(&KEY, "mysql"));
        }
        let password = password(&KEY, "mysql");
        assert_eq!(password.len(), 32);
        assert!(password.chars().all(|c| c.is_ascii_alphanumeric() || "+/".contains(c)), "needs no quoting");
    }

    #[test]
    fn a_servers_certificate_names_its_addresses_and_its_key_is_its_own() {
        let authority = Authority::of(&KEY, "mysql");
        let addresses =
            ["172.16.11.54".parse().expect("an address"), "2001:db8::1".parse().expect("another")];
        let issue =
            |n| authority.issue("hadev1", &addresses, &drawn(n), NOW).expect("issued").expect("a key");
        let (one, two) = (issue(1), issue(2));
        assert_ne!(*one.key, *two.key);
        let der = bytes(&one.certificate);
        // An address in a subject alternative name: tag 7 of the choice, its length, its bytes.
        assert!(holds(&der, &[0x87, 4, 172, 16, 11, 54]));
        assert!(holds(&der, &[0x87, 16, 0x20, 0x01, 0x0d, 0xb8]) && holds(&der, b"hadev1"));
        assert_eq!(bytes(&one.key)[35..], [1; 32]);
        assert!(!one.key.contains(&STANDARD.encode(*derived(&KEY, AUTHORITY, "mysql"))));
    }

    #[test]
    fn a_certificate_says_until_when_it_is_valid() {
        let authority = Authority::of(&KEY, "mysql");
        let issue = |now| authority.issue("hadev1", &[], &drawn(1), now).expect("issued").expect("a key");
        assert_eq!(valid_until(&issue(NOW).certificate).as_deref(), Some("2036-09-18T14:13:20Z"));
        assert_eq!(
            valid_until(&issue(NOW + 15 * 365 * 86_400).certificate).as_deref(),
            Some("2051-09-15T14:13:20Z")
        );
        let ca = authority.certificate().expect("made");
        assert_eq!(valid_until(&ca).as_deref(), Some("9999-12-31T00:00:00Z"));
        for strange in ["", "-----BEGIN CERTIFICATE-----\nMAAwAA==\n", "MIL//w=="] {
            assert_eq!(valid_until(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_certificate_is_signed_by_the_authority_alone() {
        use ed25519_dalek::{Signature, Verifier, VerifyingKey};
        let authority = Authority::of(&KEY, "mysql");
        let issued = authority.issue("hadev1", &[], &drawn(7), NOW).expect("issued").expect("a key");
        let der = bytes(&issued.certificate);
        // SEQUENCE { what is signed: SEQUENCE with a length of two bytes, the algorithm, BIT STRING of 64 bytes at the end }
        assert_eq!((der[0], der[1], der[4], der[5]), (0x30, 0x82, 0x30, 0x82));
        let length = usize::from(der[6]) * 256 + usize::from(der[7]);
        let signed = &der[4..8 + length];
        let signature = Signature::from_slice(&der[der.len() - 64..]).expect("a signature");
        let verifies =
            |key: &[u8; 32]| VerifyingKey::from_bytes(key).expect("a key").verify(signed, &signature);
        assert!(verifies(&authority.public).is_ok());
        assert!(verifies(&Authority::of(&[43; 32], "mysql").public).is_err());
    }

    #[test]
    fn what_was_drawn_and_is_no_key_is_told() {
        let none = Authority::of(&KEY, "mysql").issue("hadev1", &[], &drawn(0xff), NOW).expect("no failure");
        assert!(none.is_none());
    }
}
