//! Values and their order.

/// Bytes of a text that count: two texts that begin with the same ones share a place.
pub const TEXT_BYTES_MAX: usize = 512;

/// The classes of values, in the order in which they are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// No value.
    Null = 1,
    /// True or false.
    Bool = 2,
    /// Numbers: 64-bit floats, integers also beyond what those hold.
    Number = 3,
    /// Points in time, in microseconds.
    Time = 4,
    /// Any other text.
    Text = 5,
}

impl Class {
    /// All that hold a value.
    pub const VALUES: [Self; 4] = [Self::Bool, Self::Number, Self::Time, Self::Text];
}

/// A value of a row, or a literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// None.
    Null,
    /// True or false.
    Bool(bool),
    /// A number that is not known to be an integer.
    Number(f64),
    /// An integer, exactly.
    Integer(i64),
    /// A point in time: microseconds of the Unix epoch, rounded down.
    Time(i64),
    /// Text, in byte order.
    Text(&'a str),
}

impl<'a> Value<'a> {
    /// The canonical value of a text.
    #[must_use]
    pub fn canonical(text: &'a str) -> Self {
        let trimmed = text.trim();
        match trimmed.as_bytes().first() {
            Some(b'0'..=b'9' | b'-' | b'+' | b'.') => {
                if let Some(micros) = time(trimmed) {
                    return Self::Time(micros);
                }
                if let Ok(integer) = trimmed.parse::<i64>() {
                    return Self::Integer(integer);
                }
                match trimmed.parse::<f64>() {
                    Ok(number) if number.is_finite() => Self::Number(number),
                    _ => Self::Text(text),
                }
            }
            Some(b't' | b'T') if trimmed.eq_ignore_ascii_case("true") => Self::Bool(true),
            Some(b'f' | b'F') if trimmed.eq_ignore_ascii_case("false") => Self::Bool(false),
            _ => Self::Text(text),
        }
    }

    /// A number as a value; what is no number has the place of the text that prints it.
    #[must_use]
    pub fn number(number: f64) -> Self {
        if number.is_nan() {
            Self::Text("NaN")
        } else if number.is_infinite() {
            Self::Text(if number > 0.0 { "inf" } else { "-inf" })
        } else {
            Self::Number(number)
        }
    }

    /// Its class.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Null => Class::Null,
            Self::Bool(_) => Class::Bool,
            Self::Number(_) | Self::Integer(_) => Class::Number,
            Self::Time(_) => Class::Time,
            Self::Text(_) => Class::Text,
        }
    }

    /// Appends the encoding: the class, then
    ///
    /// | class | bytes |
    /// | --- | --- |
    /// | bool | 0 or 1 |
    /// | number | 8, the bits of the nearest float, big-endian; all inverted when negative, else the sign inverted; -0 is 0. Then 2, big-endian: what the integer has beyond the float, plus 32,768 |
    /// | time | 8, big-endian, the sign inverted |
    /// | text | at most [`TEXT_BYTES_MAX`] bytes, `00` as `00 FF`, then `00 01` |
    ///
    /// Byte order of encodings is the order of values, and none is the start of another.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.class() as u8);
        match self {
            Self::Null => {}
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Number(number) => {
                out.extend(float_bytes(*number));
                out.extend(RESIDUE_ZERO.to_be_bytes());
            }
            Self::Integer(integer) => {
                // The nearest float of a 64-bit integer is at most 512 away, and saturates past 2^63.
                let float = *integer as f64;
                let residue = i128::from(*integer) - float as i128;
                out.extend(float_bytes(float));
                out.extend((i32::from(RESIDUE_ZERO) + residue as i32).to_be_bytes()[2..].iter());
            }
            Self::Time(micros) => out.extend((micros.cast_unsigned() ^ (1 << 63)).to_be_bytes()),
            Self::Text(text) => {
                text_bytes(text, out);
                out.extend([0, 1]);
            }
        }
    }
}

/// What stands for no difference between a number and its float.
const RESIDUE_ZERO: u16 = 1 << 15;

/// From here on floats are further apart than integers, so several integers may have one float.
const INTEGERS_EXACT_BELOW: f64 = 9_007_199_254_740_992.0;

fn float_bytes(number: f64) -> [u8; 8] {
    // Adding zero makes -0 into 0.
    let bits = (number + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits ^ (1 << 63) };
    ordered.to_be_bytes()
}

impl Value<'_> {
    /// Whether other numbers may be equal to this one as a float.
    pub(super) fn is_rounded(&self) -> bool {
        matches!(self, Self::Number(number) if number.abs() >= INTEGERS_EXACT_BELOW)
    }

    /// Appends what the encodings of all values begin with that may be equal to this one.
    pub(super) fn encode_rounded(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                out.push(self.class() as u8);
                out.extend(float_bytes(*number));
            }
            value => value.encode(out),
        }
    }
}

/// The encodings in the encoding of a tuple.
///
/// # Errors
/// `None` when the bytes are no tuple.
#[must_use]
pub fn split_tuple(mut tuple: &[u8]) -> Option<Vec<&[u8]>> {
    let mut values = Vec::new();
    while let Some(&class) = tuple.first() {
        let length = match class {
            1 => 1,
            2 => 2,
            3 => 11,
            4 => 9,
            5 => text_length(&tuple[1..])? + 1,
            _ => return None,
        };
        let (value, rest) = tuple.split_at_checked(length)?;
        values.push(value);
        tuple = rest;
    }
    Some(values)
}

fn text_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match (bytes.get(at)?, bytes.get(at + 1)) {
            (0, Some(1)) => return Some(at + 2),
            (0, Some(0xff)) => at += 2,
            (0, _) => return None,
            _ => at += 1,
        }
    }
}

/// The bytes of a text, without its end.
pub(super) fn text_bytes(text: &str, out: &mut Vec<u8>) {
    for &byte in text.as_bytes().iter().take(TEXT_BYTES_MAX) {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

/// Microseconds of a date, or of a date and a time of day: `2024-05-06`, `2024-05-06T07:08:09`, with a space in place of
/// the `T`, with a fraction, with `Z` or an offset. Without one it is UTC. Source: RFC 3339, section 5.6.
fn time(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let midnight = days_since_epoch(year, month, day) * 86_400_000_000;
    if bytes.len() == 10 {
        return Some(midnight);
    }
    if bytes.len() < 19 || !matches!(bytes[10], b'T' | b't' | b' ') || bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (micros, rest) = fraction(&bytes[19..])?;
    let offset = offset_seconds(rest)?;
    Some(midnight + ((hour * 60 + minute) * 60 + second - offset) * 1_000_000 + micros)
}

/// Microseconds of a fraction, and what follows it.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let micros = (0..6).fold(0, |n, at| n * 10 + rest[..digits].get(at).map_or(0, |digit| i64::from(digit - b'0')));
    Some((micros, &rest[digits..]))
}

fn offset_seconds(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, rest @ ..] => {
            let (m1, m2) = match rest {
                [b':', m1, m2] | [m1, m2] => (m1, m2),
                [] => (&b'0', &b'0'),
                _ => return None,
            };
            if ![h1, h2, m1, m2].iter().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            let two = |a: &u8, b: &u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
            let seconds = (two(h1, h2) * 60 + two(m1, m2)) * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, for years 0 to 9999: years begin in March, so that a leap day is the
/// last of its year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (153 * month + 2) / 5;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + days_before_month + day
        - 1
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: Value<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut out);
        out
    }

    #[test]
    fn byte_order_is_the_order_of_values() {
        let ordered = [
            Value::Null,
            Value::Bool(false),
            Value::Bool(true),
            Value::Number(f64::MIN),
            Value::Number(-1.5),
            Value::Number(-1.0),
            Value::Number(0.0),
            Value::Number(f64::MIN_POSITIVE),
            Value::Number(1.0),
            Value::Number(2.0),
            Value::Integer(9_007_199_254_740_992),
            Value::Integer(9_007_199_254_740_993),
            Value::Integer(i64::MAX - 1),
            Value::Integer(i64::MAX),
            Value::Number(1e300),
            Value::Time(i64::MIN),
            Value::Time(-1),
            Value::Time(0),
            Value::Time(i64::MAX),
            Value::Text(""),
            Value::Text("\0"),
            Value::Text("\0a"),
            Value::Text("\u{1}"),
            Value::Text("a"),
            Value::Text("a\0"),
            Value::Text("a\0b"),
            Value::Text("ab"),
            Value::Text("b"),
        ];
        for pair in ordered.windows(2) {
            assert!(encoded(pair[0]) < encoded(pair[1]), "{pair:?}");
            assert!(!encoded(pair[1]).starts_with(&encoded(pair[0])), "{pair:?}");
            let tuple = [encoded(pair[0]), encoded(pair[1])].concat();
            assert_eq!(split_tuple(&tuple).unwrap(), [encoded(pair[0]), encoded(pair[1])]);
        }
        assert_eq!(encoded(Value::Integer(-7)), encoded(Value::Number(-7.0)));
        assert_eq!(encoded(Value::Number(-0.0)), encoded(Value::Number(0.0)));
    }

    #[test]
    fn a_text_is_what_it_reads_as() {
        let check = |text, expected: Value<'_>| assert_eq!(Value::canonical(text), expected, "{text}");
        check("10", Value::Integer(10));
        check(" 10.0 ", Value::Number(10.0));
        check("99999999999999999999", Value::Number(1e20));
        check("-.5e1", Value::Number(-5.0));
        check("007", Value::Integer(7));
        check("1-2", Value::Text("1-2"));
        check("inf", Value::Text("inf"));
        check("-inf", Value::Text("-inf"));
        check("TRUE", Value::Bool(true));
        check("falsehood", Value::Text("falsehood"));
        check(" a", Value::Text(" a"));
        check("", Value::Text(""));
    }

    #[test]
    fn times_are_read_as_rfc_3339_says() {
        let check = |text, expected: Option<i64>| assert_eq!(time(text), expected, "{text}");
        check("1970-01-01", Some(0));
        check("1969-12-31", Some(-86_400_000_000));
        check("2000-03-01", Some(951_868_800_000_000));
        check("2024-02-29", Some(1_709_164_800_000_000));
        check("2023-02-29", None);
        check("2024-13-01", None);
        check("2026-11-25T01:02:03Z", Some(1_795_568_523_000_000));
        check("2026-11-25 01:02:03.5", Some(1_795_568_523_500_000));
        check("2026-11-25T01:02:03.1234567+01:00", Some(1_795_564_923_123_456));
        check("2026-11-25T01:02:03-0130", Some(1_795_573_923_000_000));
        check("2026-11-25T01:02", None);
        check("2026-11-25T24:00:00", None);
        check("2026-11-25T01:02:03 UTC", None);
        check("2026-11-2x", None);
    }
}
