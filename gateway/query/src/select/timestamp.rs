//! Points in time as S3 Select has them: ISO 8601 with a precision and an offset, computed with by parts.
//! Source: Amazon S3 User Guide, "Date functions"; Amazon Ion, "Timestamps".

use std::cmp::Ordering;

use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use super::error::Error;

/// Up to which part a time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// `2007T`
    Year,
    /// `2007-02T`
    Month,
    /// `2007-02-23T`
    Day,
    /// `2007-02-23T12:14Z`
    Minute,
    /// `2007-02-23T12:14:33Z`, with this many digits after the second.
    Second(u8),
}

/// A point in time. Times compare by the moment alone.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    at: OffsetDateTime,
    precision: Precision,
    /// Whether the offset is known; times without one count as UTC.
    offset: bool,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

/// A part of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Years.
    Year,
    /// Months.
    Month,
    /// Days.
    Day,
    /// Hours.
    Hour,
    /// Minutes.
    Minute,
    /// Seconds.
    Second,
    /// Hours of the offset; only for `EXTRACT`.
    TimezoneHour,
    /// Minutes of the offset; only for `EXTRACT`.
    TimezoneMinute,
}

impl Part {
    /// The part with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "year" => Self::Year,
            "month" => Self::Month,
            "day" => Self::Day,
            "hour" => Self::Hour,
            "minute" => Self::Minute,
            "second" => Self::Second,
            "timezone_hour" => Self::TimezoneHour,
            "timezone_minute" => Self::TimezoneMinute,
            _ => return None,
        })
    }
}

fn unreadable(text: &str) -> Error {
    let text: String = text.chars().take(64).collect();
    Error::new("ValueParseFailure", format!("{text:?} is no time in ISO 8601"))
}

impl Timestamp {
    /// The time of this node, to the millisecond.
    pub(super) fn now() -> Self {
        let now = OffsetDateTime::now_utc();
        let at = now.replace_millisecond(now.millisecond()).unwrap_or(now);
        Self { at, precision: Precision::Second(3), offset: true }
    }

    /// The time at this many nanoseconds of the Unix epoch, in UTC, known to this many digits after the second.
    #[must_use]
    pub fn of_nanos(nanos: i128, digits: u8) -> Option<Self> {
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
        Some(Self { at, precision: Precision::Second(digits), offset: true })
    }

    /// The day that is this many days after 1970-01-01.
    #[must_use]
    pub fn of_days(days: i64) -> Option<Self> {
        let at = OffsetDateTime::UNIX_EPOCH.checked_add(Duration::days(days))?;
        Some(Self { at, precision: Precision::Day, offset: false })
    }

    /// Reads ISO 8601 as Amazon Ion has it. A space may stand for the `T`.
    ///
    /// # Errors
    /// `ValueParseFailure` for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::read(text.trim()).ok_or_else(|| unreadable(text))
    }

    fn read(text: &str) -> Option<Self> {
        let mut rest = Rest(text.as_bytes());
        let year = rest.digits(4)?;
        let (mut month, mut day) = (1, 1);
        let mut precision = Precision::Year;
        if rest.take(b'-') {
            month = rest.digits(2)?;
            precision = Precision::Month;
            if rest.take(b'-') {
                day = rest.digits(2)?;
                precision = Precision::Day;
            }
        }
        let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
        let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
        let marked = rest.take(b'T') || rest.take(b't') || (precision == Precision::Day && rest.take(b' '));
        if rest.0.is_empty() {
            let complete = marked || precision == Precision::Day;
            return complete.then(|| Self { at: date.midnight().assume_utc(), precision, offset: false });
        }
        if !marked || precision != Precision::Day {
            return None;
        }
        let (hour, minute) = (rest.digits(2)?, rest.take(b':').then(|| rest.digits(2))??);
        let (mut second, mut nanos) = (0, 0);
        precision = Precision::Minute;
        if rest.take(b':') {
            second = rest.digits(2)?;
            let digits = if rest.take(b'.') { rest.fraction(&mut nanos)? } else { 0 };
            precision = Precision::Second(digits);
        }
        let (offset, known) = rest.offset()?;
        let part = |number: u32| u8::try_from(number).ok();
        let time = Time::from_hms_nano(part(hour)?, part(minute)?, part(second)?, nanos).ok()?;
        Some(Self { at: PrimitiveDateTime::new(date, time).assume_offset(offset), precision, offset: known })
    }

    /// `DATE_ADD`: the time so much later. What the part needs of precision, the result has.
    ///
    /// # Errors
    /// When there is no such time.
    pub fn add(self, part: Part, count: i64) -> Result<Self, Error> {
        let later = match part {
            Part::Year => count.checked_mul(12).and_then(|months| self.add_months(months)),
            Part::Month => self.add_months(count),
            Part::Day => self.later(count, 86_400),
            Part::Hour => self.later(count, 3600),
            Part::Minute => self.later(count, 60),
            Part::Second => self.later(count, 1),
            Part::TimezoneHour | Part::TimezoneMinute => None,
        };
        let at = later.ok_or_else(|| Error::new("ValueParseFailure", "the time is out of the years 0 to 9999"))?;
        let needed = match part {
            Part::Year => Precision::Year,
            Part::Month => Precision::Month,
            Part::Day => Precision::Day,
            Part::Hour | Part::Minute => Precision::Minute,
            _ => Precision::Second(0),
        };
        Ok(Self { at, precision: self.precision.max(needed), offset: self.offset })
    }

    fn later(self, count: i64, seconds: i64) -> Option<OffsetDateTime> {
        let later = self.at.checked_add(Duration::seconds(count.checked_mul(seconds)?))?;
        (0..=9999).contains(&later.year()).then_some(later)
    }

    fn add_months(self, months: i64) -> Option<OffsetDateTime> {
        let total = i64::from(self.at.year()) * 12 + i64::from(u8::from(self.at.month())) - 1;
        let total = total.checked_add(months).filter(|total| (0..120_000).contains(total))?;
        let year = i32::try_from(total / 12).ok()?;
        let month = Month::try_from(u8::try_from(total % 12 + 1).ok()?).ok()?;
        let day = self.at.day().min(month.length(year));
        Some(self.at.replace_date(Date::from_calendar_date(year, month, day).ok()?))
    }

    /// `DATE_DIFF`: how many whole parts lie between this and a later time.
    #[must_use]
    pub fn until(self, later: Self, part: Part) -> i64 {
        let whole = |seconds: i64| (later.at - self.at).whole_seconds() / seconds;
        match part {
            Part::Year => self.months_until(later) / 12,
            Part::Month => self.months_until(later),
            Part::Day => whole(86_400),
            Part::Hour => whole(3600),
            Part::Minute => whole(60),
            _ => whole(1),
        }
    }

    fn months_until(self, later: Self) -> i64 {
        if later.at < self.at {
            return -later.months_until(self);
        }
        let utc = |at: OffsetDateTime| at.checked_to_offset(UtcOffset::UTC).unwrap_or(at);
        let (from, to) = (utc(self.at), utc(later.at));
        let months = |at: OffsetDateTime| i64::from(at.year()) * 12 + i64::from(u8::from(at.month()));
        let begun = (to.day(), to.time()) < (from.day(), from.time());
        months(to) - months(from) - i64::from(begun)
    }

    /// `EXTRACT`: a part of the time, in its own offset.
    #[must_use]
    pub fn extract(self, part: Part) -> i64 {
        match part {
            Part::Year => self.at.year().into(),
            Part::Month => u8::from(self.at.month()).into(),
            Part::Day => self.at.day().into(),
            Part::Hour => self.at.hour().into(),
            Part::Minute => self.at.minute().into(),
            Part::Second => self.at.second().into(),
            Part::TimezoneHour => self.at.offset().whole_hours().into(),
            Part::TimezoneMinute => self.at.offset().minutes_past_hour().into(),
        }
    }

    /// `TO_STRING`: the time as a pattern says.
    ///
    /// # Errors
    /// For letters that mean nothing, and text in quotes that does not end.
    pub fn format(self, pattern: &str) -> Result<String, Error> {
        let (mut out, mut rest) = (String::new(), pattern.chars().peekable());
        while let Some(character) = rest.next() {
            match character {
                '\'' => quoted(&mut rest, &mut out)?,
                letter if letter.is_ascii_alphabetic() => {
                    let mut count = 1;
                    while rest.next_if_eq(&letter).is_some() {
                        count += 1;
                    }
                    let text = self.field(letter, count).ok_or_else(|| {
                        let field: String = std::iter::repeat_n(letter, count).take(16).collect();
                        Error::new(
                            "EvaluatorInvalidTimestampFormatPatternSymbol",
                            format!("{field} is no part of a pattern of TO_STRING"),
                        )
                    })?;
                    out.push_str(&text);
                }
                other => out.push(other),
            }
        }
        Ok(out)
    }

    fn field(self, letter: char, count: usize) -> Option<String> {
        let at = self.at;
        let hour = (at.hour() + 11) % 12 + 1;
        let number = |value: u8| match count {
            1 => Some(value.to_string()),
            2 => Some(format!("{value:02}")),
            _ => None,
        };
        match (letter, count) {
            ('y', 1) => Some(at.year().to_string()),
            ('y', 2) => Some(format!("{:02}", at.year() % 100)),
            ('y', 4) => Some(format!("{:04}", at.year())),
            ('M', 1 | 2) => number(at.month().into()),
            ('M', 3) => Some(at.month().to_string()[..3].to_owned()),
            ('M', 4) => Some(at.month().to_string()),
            ('M', 5) => Some(at.month().to_string()[..1].to_owned()),
            ('d', _) => number(at.day()),
            ('a', 1) => Some(if at.hour() < 12 { "AM" } else { "PM" }.to_owned()),
            ('h', _) => number(hour),
            ('H', _) => number(at.hour()),
            ('m', _) => number(at.minute()),
            ('s', _) => number(at.second()),
            ('S', 1..=9) => Some(format!("{:09}", at.nanosecond())[..count].to_owned()),
            ('n', 1) => Some(at.nanosecond().to_string()),
            ('X' | 'x', 1..=5) => Some(self.zone(letter == 'X', count)),
            _ => None,
        }
    }

    fn zone(self, z: bool, count: usize) -> String {
        let offset = self.at.offset();
        if z && offset.is_utc() {
            return "Z".to_owned();
        }
        let sign = if offset.is_negative() { '-' } else { '+' };
        let (hours, minutes) = (offset.whole_hours().unsigned_abs(), offset.minutes_past_hour().unsigned_abs());
        match count {
            1 if minutes == 0 => format!("{sign}{hours:02}"),
            1 | 2 | 4 => format!("{sign}{hours:02}{minutes:02}"),
            _ => format!("{sign}{hours:02}:{minutes:02}"),
        }
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.at;
        write!(f, "{:04}", at.year())?;
        if self.precision >= Precision::Month {
            write!(f, "-{:02}", u8::from(at.month()))?;
        }
        if self.precision >= Precision::Day {
            write!(f, "-{:02}", at.day())?;
        }
        f.write_str("T")?;
        if self.precision < Precision::Minute {
            return Ok(());
        }
        write!(f, "{:02}:{:02}", at.hour(), at.minute())?;
        if let Precision::Second(digits) = self.precision {
            write!(f, ":{:02}", at.second())?;
            if digits > 0 {
                write!(f, ".{}", &format!("{:09}", at.nanosecond())[..usize::from(digits)])?;
            }
        }
        match self.offset {
            true => f.write_str(&self.zone(true, 3)),
            false => f.write_str("-00:00"),
        }
    }
}

/// The text in quotes; a doubled quote is one.
fn quoted(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), Error> {
    if rest.next_if_eq(&'\'').is_some() {
        out.push('\'');
        return Ok(());
    }
    loop {
        match rest.next() {
            Some('\'') if rest.next_if_eq(&'\'').is_some() => out.push('\''),
            Some('\'') => return Ok(()),
            Some(character) => out.push(character),
            None => {
                return Err(Error::new(
                    "EvaluatorUnterminatedTimestampFormatPatternToken",
                    "the text in quotes of a pattern of TO_STRING does not end",
                ));
            }
        }
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(is_next)..];
        is_next
    }

    fn digits(&mut self, count: usize) -> Option<u32> {
        let digits = self.0.get(..count)?;
        self.0 = &self.0[count..];
        digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0')))
    }

    /// Nanoseconds, and how many digits told them.
    fn fraction(&mut self, nanos: &mut u32) -> Option<u8> {
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        let kept = count.min(9);
        *nanos = Rest(&self.0[..kept]).digits(kept)? * 10u32.pow(9 - u32::try_from(kept).ok()?);
        self.0 = &self.0[count..];
        u8::try_from(kept).ok()
    }

    fn offset(&mut self) -> Option<(UtcOffset, bool)> {
        if self.0.is_empty() {
            return Some((UtcOffset::UTC, false));
        }
        if self.take(b'Z') || self.take(b'z') {
            return self.0.is_empty().then_some((UtcOffset::UTC, true));
        }
        let negative = self.take(b'-');
        if !negative && !self.take(b'+') {
            return None;
        }
        let hours = i32::try_from(self.digits(2)?).ok()?;
        let _ = self.take(b':');
        let minutes = i32::try_from(if self.0.is_empty() { 0 } else { self.digits(2)? }).ok()?;
        if !self.0.is_empty() || hours > 23 || minutes > 59 {
            return None;
        }
        let seconds = (hours * 3600 + minutes * 60) * if negative { -1 } else { 1 };
        // -00:00 says that the offset is not known.
        Some((UtcOffset::from_whole_seconds(seconds).ok()?, seconds != 0 || !negative))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in [
            "2007T",
            "2007-02T",
            "2007-02-23T",
            "2007-02-23T12:14Z",
            "2007-02-23T12:14:33Z",
            "2007-02-23T12:14:33.079-08:00",
            "2007-02-23T20:14:33.079123456+05:30",
            "2007-02-23T12:14-00:00",
        ] {
            assert_eq!(at(text).to_string(), text);
        }
        assert_eq!(at("2007-02-23").to_string(), "2007-02-23T");
        assert_eq!(at("2007-02-23 12:14:33").to_string(), "2007-02-23T12:14:33-00:00");
        for text in [
            "",
            "2007",
            "2007-02",
            "2007-13-01T",
            "2007-02-30T",
            "2007-02-23T12",
            "2007-02-23T25:00Z",
            "2007-02-23T12:14Zx",
            "x",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap_err().code, "ValueParseFailure", "{text}");
        }
        assert_eq!(at("2007-02-23T12:14Z"), at("2007-02-23T13:14+01:00"));
    }

    #[test]
    fn parts_are_added_as_documented() {
        let check = |part: Part, count: i64, from: &str, expected: &str| {
            assert_eq!(at(from).add(part, count).unwrap().to_string(), expected, "{part:?} {count} {from}");
        };
        check(Part::Year, 5, "2010-01-01T", "2015-01-01T");
        check(Part::Month, 1, "2010T", "2010-02T");
        check(Part::Month, 13, "2010T", "2011-02T");
        check(Part::Day, -1, "2017-01-10T", "2017-01-09T");
        check(Part::Hour, 1, "2017T", "2017-01-01T01:00-00:00");
        check(Part::Hour, 1, "2017-01-02T03:04Z", "2017-01-02T04:04Z");
        check(Part::Minute, 1, "2017-01-02T03:04:05.006Z", "2017-01-02T03:05:05.006Z");
        check(Part::Second, 1, "2017-01-02T03:04:05.006Z", "2017-01-02T03:04:06.006Z");
        check(Part::Month, 1, "2012-01-31T", "2012-02-29T");
        assert!(at("9999T").add(Part::Year, 1).is_err());
        assert!(at("9999T").add(Part::Second, i64::MAX).is_err());
        assert!(at("9999T").add(Part::Year, i64::MAX).is_err());
    }

    #[test]
    fn differences_count_whole_parts() {
        let check = |part: Part, from: &str, to: &str, expected: i64| {
            assert_eq!(at(from).until(at(to), part), expected, "{part:?} {from} {to}");
        };
        check(Part::Year, "2010-01-01T", "2011-01-01T", 1);
        check(Part::Year, "2010-12T", "2011-05T", 0);
        check(Part::Month, "2010T", "2011T", 12);
        check(Part::Month, "2011T", "2010T", -12);
        check(Part::Month, "2011-01-31T", "2011-02-28T", 0);
        check(Part::Day, "2010-01-01T23:00Z", "2010-01-02T01:00Z", 0);
        check(Part::Hour, "2010-01-01T23:00Z", "2010-01-02T01:00Z", 2);
    }

    #[test]
    fn patterns_are_those_of_the_guide() {
        let check = |from: &str, pattern: &str, expected: &str| assert_eq!(at(from).format(pattern).unwrap(), expected);
        check("1969-07-20T20:18Z", "MMMM d, y", "July 20, 1969");
        check("1969-07-20T20:18Z", "MMM d, yyyy", "Jul 20, 1969");
        check("1969-07-20T20:18Z", "M-d-yy", "7-20-69");
        check("1969-07-20T20:18Z", "MM-d-y", "07-20-1969");
        check("1969-07-20T20:18Z", "MMMM d, y h:m a", "July 20, 1969 8:18 PM");
        check("1969-07-20T20:18Z", "y-MM-dd'T'H:m:ssX", "1969-07-20T20:18:00Z");
        check("1969-07-20T20:18:00+08:00", "H:m:ssX", "20:18:00+08");
        check("1969-07-20T20:18:00+08:00", "H:m:ssXXXX", "20:18:00+0800");
        check("1969-07-20T20:18:00+08:00", "H:m:ssXXXXX", "20:18:00+08:00");
        check("1969-07-20T00:18:00.125Z", "hh a SSS n x", "12 AM 125 125000000 +00");
        assert!(at("2007T").format("q").is_err());
        assert!(at("2007T").format("y 'open").is_err());
    }

    #[test]
    fn parts_are_extracted_in_the_own_offset() {
        let time = at("2017-01-02T03:04:05+07:08");
        for (part, expected) in
            [(Part::Year, 2017), (Part::Month, 1), (Part::Hour, 3), (Part::TimezoneHour, 7), (Part::TimezoneMinute, 8)]
        {
            assert_eq!(time.extract(part), expected, "{part:?}");
        }
    }
}
