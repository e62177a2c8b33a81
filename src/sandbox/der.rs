//! A client's certificate, encoded by hand.
//!
//! The API server takes every organization in a certificate's subject as a group, and rcgen keeps
//! one value per attribute: a user in two groups cannot be made with it. The rest of the
//! certificates come from rcgen.

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use rcgen::{KeyPair, SigningKey as _};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0] EXPLICIT`, the certificate's version.
const VERSION: u8 = 0xa0;
/// `[3] EXPLICIT`, the certificate's extensions.
const EXTENSIONS: u8 = 0xa3;

const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];
const CLIENT_AUTH: [u8; 8] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const ECDSA_WITH_SHA256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// The certificate (PEM) of `user` in `groups`, for the public key `spki`, signed by the authority
/// of this name and key. The validity must end before 2050.
///
/// # Errors
/// The key cannot sign.
pub(super) fn client(
    authority: &str,
    authority_key: &KeyPair,
    spki: &[u8],
    user: &str,
    groups: &[&str],
    (not_before, not_after): (OffsetDateTime, OffsetDateTime),
) -> Result<String> {
    let algorithm = sequence(&[tlv(OID, &ECDSA_WITH_SHA256)]);
    // Positive and never zero, and another for each key.
    let mut serial = Sha256::digest(spki)[..16].to_vec();
    serial[0] = serial[0] & 0x7f | 0x40;
    let issuer = sequence(&[attribute(&COMMON_NAME, authority)]);
    let organizations = groups.iter().map(|group| attribute(&ORGANIZATION, group));
    let subject: Vec<_> = organizations.chain([attribute(&COMMON_NAME, user)]).collect();
    let usage = sequence(&[tlv(OID, &CLIENT_AUTH)]);
    let extension = sequence(&[tlv(OID, &EXTENDED_KEY_USAGE), tlv(OCTET_STRING, &usage)]);

    let to_sign = sequence(&[
        tlv(VERSION, &tlv(INTEGER, &[2])),
        tlv(INTEGER, &serial),
        algorithm.clone(),
        issuer,
        sequence(&[utc_time(not_before), utc_time(not_after)]),
        sequence(&subject),
        spki.to_vec(),
        tlv(EXTENSIONS, &sequence(&[extension])),
    ]);
    let signature = authority_key.sign(&to_sign).context("cannot sign")?;
    // The first byte of a bit string counts its unused bits.
    let signature = tlv(BIT_STRING, &[&[0], signature.as_slice()].concat());
    pem(&sequence(&[to_sign, algorithm, signature]))
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|&&byte| byte == 0).count()..];
    let mut out = vec![tag];
    if content.len() >= 0x80 {
        out.push(0x80 | u8::try_from(length.len()).expect("a length has at most 8 bytes"));
        out.extend_from_slice(length);
    } else {
        out.push(u8::try_from(content.len()).expect("checked above"));
    }
    out.extend_from_slice(content);
    out
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

fn attribute(oid: &[u8], value: &str) -> Vec<u8> {
    tlv(SET, &sequence(&[tlv(OID, oid), tlv(UTF8_STRING, value.as_bytes())]))
}

fn utc_time(at: OffsetDateTime) -> Vec<u8> {
    let (date, time) = (at.date(), at.time());
    let text = format!(
        "{:02}{:02}{:02}{:02}{:02}{:02}Z",
        date.year().rem_euclid(100),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    tlv(UTC_TIME, text.as_bytes())
}

fn pem(der: &[u8]) -> Result<String> {
    let base64 = base64(der)?;
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in base64.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    Ok(out)
}

/// Base64 as Kubernetes has it, from the crate that is there already.
pub(super) fn base64(bytes: &[u8]) -> Result<String> {
    let value = serde_json::to_value(ByteString(bytes.to_vec()))?;
    Ok(value.as_str().context("bytes are a string in JSON")?.to_owned())
}
