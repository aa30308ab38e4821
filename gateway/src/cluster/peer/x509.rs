//! The two certificates that trust needs, in DER: an authority's and a node's, both for Ed25519 keys.
//!
//! Writing these few fixed fields takes less than any library for it brings along. Who reads them is rustls; that it
//! accepts what is written here, and refuses what it must, is what the tests of peers show. Dates are good until 2049, from
//! when on X.509 writes years with four digits.
//!
//! Source: RFC 5280 section 4.1 and 4.2, RFC 8410, ITU-T X.690.

use time::OffsetDateTime;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, constructed: the version.
const VERSION: u8 = 0xa0;
/// `[3]`, constructed: the extensions.
const EXTENSIONS: u8 = 0xa3;
/// `[2]`, primitive: a DNS name among alternative names.
const DNS_NAME: u8 = 0x82;

const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const TRUE: &[u8] = &[0x01, 0x01, 0xff];
/// Bits 0 (signatures) and 5 (certificates); the first byte counts the unused bits.
const DIGITAL_SIGNATURE: &[u8] = &[7, 0x80];
const CERTIFICATE_SIGN: &[u8] = &[2, 0x04];

/// What a certificate says.
pub(super) struct Certificate<'a> {
    pub serial: [u8; 16],
    pub issuer: &'a str,
    pub subject: &'a str,
    /// Of the subject.
    pub public_key: &'a [u8],
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// DNS names of a node; an authority has none.
    pub names: &'a [String],
}

impl Certificate<'_> {
    /// The certificate, signed by the issuer's `sign`.
    pub(super) fn signed(&self, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let to_be_signed = self.to_be_signed();
        let signature = bit_string(&sign(&to_be_signed));
        der(SEQUENCE, &[&to_be_signed, &algorithm(), &signature])
    }

    fn to_be_signed(&self) -> Vec<u8> {
        let validity = der(SEQUENCE, &[&utc_time(self.not_before), &utc_time(self.not_after)]);
        let key = der(SEQUENCE, &[&algorithm(), &bit_string(self.public_key)]);
        let extensions = if self.names.is_empty() { authority_extensions() } else { self.node_extensions() };
        let extensions = der(EXTENSIONS, &[&der(SEQUENCE, &[&extensions])]);
        // The leading zero byte keeps the number positive, the bit after it keeps the encoding shortest.
        let mut serial = self.serial;
        serial[0] |= 0x80;
        der(
            SEQUENCE,
            &[
                &der(VERSION, &[&der(INTEGER, &[&[2]])]),
                &der(INTEGER, &[&[0], &serial]),
                &algorithm(),
                &name(self.issuer),
                &validity,
                &name(self.subject),
                &key,
                &extensions,
            ],
        )
    }

    fn node_extensions(&self) -> Vec<u8> {
        let names: Vec<u8> = self.names.iter().flat_map(|name| der(DNS_NAME, &[name.as_bytes()])).collect();
        let usages = [der(OID, &[SERVER_AUTH]), der(OID, &[CLIENT_AUTH])].concat();
        [
            extension(BASIC_CONSTRAINTS, true, &der(SEQUENCE, &[])),
            extension(KEY_USAGE, true, &der(BIT_STRING, &[DIGITAL_SIGNATURE])),
            extension(EXTENDED_KEY_USAGE, false, &der(SEQUENCE, &[&usages])),
            extension(ALTERNATIVE_NAMES, false, &der(SEQUENCE, &[&names])),
        ]
        .concat()
    }
}

/// An authority that signs nodes and no further authorities.
fn authority_extensions() -> Vec<u8> {
    let constraints = der(SEQUENCE, &[TRUE, &der(INTEGER, &[&[0]])]);
    [
        extension(BASIC_CONSTRAINTS, true, &constraints),
        extension(KEY_USAGE, true, &der(BIT_STRING, &[CERTIFICATE_SIGN])),
    ]
    .concat()
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { TRUE } else { &[] };
    der(SEQUENCE, &[&der(OID, &[id]), critical, &der(OCTET_STRING, &[value])])
}

fn algorithm() -> Vec<u8> {
    der(SEQUENCE, &[&der(OID, &[ED25519])])
}

fn name(common: &str) -> Vec<u8> {
    let attribute = der(SEQUENCE, &[&der(OID, &[COMMON_NAME]), &der(UTF8, &[common.as_bytes()])]);
    der(SEQUENCE, &[&der(SET, &[&attribute])])
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    der(BIT_STRING, &[&[0], bytes])
}

fn utc_time(at: OffsetDateTime) -> Vec<u8> {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (year, month, day) = (at.year().rem_euclid(100), u8::from(at.month()), at.day());
    let text = format!("{year:02}{month:02}{day:02}{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second());
    der(UTC_TIME, &[text.as_bytes()])
}

/// One element: its kind, its length, its contents.
fn der(kind: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|part| part.len()).sum();
    let mut bytes = vec![kind];
    match length {
        0..0x80 => bytes.push(length as u8),
        0x80..0x100 => bytes.extend([0x81, length as u8]),
        _ => {
            bytes.push(0x82);
            bytes.extend(u16::try_from(length).expect("a certificate is smaller than 64 KiB").to_be_bytes());
        }
    }
    contents.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_the_shortest_form() {
        for (length, start) in [
            (0, &[4, 0][..]),
            (127, &[4, 127]),
            (128, &[4, 0x81, 128]),
            (255, &[4, 0x81, 255]),
            (256, &[4, 0x82, 1, 0]),
            (65535, &[4, 0x82, 255, 255]),
        ] {
            let bytes = der(OCTET_STRING, &[&vec![0; length]]);
            assert_eq!(&bytes[..start.len()], start);
            assert_eq!(bytes.len(), start.len() + length);
        }
    }

    #[test]
    fn dates_are_in_utc() {
        let at = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        assert_eq!(utc_time(at.to_offset(time::macros::offset!(+5))), der(UTC_TIME, &[b"270115080000Z"]));
    }
}
