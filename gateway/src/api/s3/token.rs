//! Continuation tokens: opaque, and checked for damage.
//!
//! A token is base64url of a version byte, the revision that the listing reads (8 bytes, big-endian), the last entry that
//! was given, and a CRC-32C of all that. Pages that follow it read the same revision, while the bucket remembers it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_core::id::Revision;

const VERSION: u8 = 1;
const REVISION_BYTES: usize = 8;
const CRC_BYTES: usize = 4;

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The revision that is read.
    pub revision: Revision,
    /// The last entry that was given.
    pub after: String,
}

impl Token {
    /// The text that the client brings back.
    pub(crate) fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.revision.to_be_bytes());
        bytes.extend(self.after.as_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The token in a text, if it is one that this service gave.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_BYTES)?)?;
        if crc32c::crc32c(signed).to_be_bytes() != crc {
            return None;
        }
        let (version, rest) = signed.split_first()?;
        let (revision, after) = rest.split_at_checked(REVISION_BYTES)?;
        let revision = u64::from_be_bytes(revision.try_into().ok()?);
        let after = String::from_utf8(after.to_vec()).ok()?;
        (*version == VERSION).then_some(Self { revision, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_a_damaged_one_does_not() {
        for after in ["", "a", "photos/ü/\u{0}\n", "x".repeat(1024).as_str()] {
            let token = Token { revision: (1 << 53) - 1, after: after.to_owned() };
            let text = token.encode();
            assert_eq!(Token::decode(&text), Some(token));
            for at in 0..text.len() {
                let mut damaged = text.clone().into_bytes();
                damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(Token::decode(std::str::from_utf8(&damaged).unwrap()), None);
            }
            assert_eq!(Token::decode(&text[..text.len() - 1]), None);
        }
        for foreign in ["", "=", "AAAA", "not a token", "ZmlsZQ=="] {
            assert_eq!(Token::decode(foreign), None, "{foreign}");
        }
    }
}
