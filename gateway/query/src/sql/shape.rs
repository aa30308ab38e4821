//! What a sample of rows looks like, and the columns that follow from it.
//!
//! Shapes form a lattice: that of two samples is the narrowest one that holds both without loss. Text holds every scalar;
//! [`Shape::Mixed`] holds everything, as JSON text.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, FieldRef, Fields as ArrowFields, TimeUnit};

/// Members of a nested object; one that has more is a map in disguise, and becomes JSON text.
const MEMBERS_MAX: usize = 500;
/// Columns of a table.
pub(super) const COLUMNS_MAX: usize = 4096;
/// Levels of nesting that become types; what is deeper is JSON text.
pub(super) const LEVELS_MAX: usize = 16;
/// Marks a field whose text is JSON of any kind.
const MIXED: &str = "holdfast.mixed";

/// The shape of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Shape {
    /// Nothing is known.
    #[default]
    Null,
    Bool,
    /// 64 bits.
    Int,
    /// Integers of up to 38 digits.
    Big,
    Float,
    Date,
    /// In microseconds.
    Time {
        zoned: bool,
    },
    Text,
    /// JSON of any kind.
    Mixed,
    List(Box<Shape>),
    Struct(Members),
}

/// Named shapes, in the order in which they were seen first.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    list: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(name, _)| name.as_str())
    }

    /// Widens a member, or adds it.
    pub(super) fn merge(&mut self, name: &str, shape: Shape) {
        if let Some(&place) = self.places.get(name) {
            let known = &mut self.list[place].1;
            *known = std::mem::take(known).merge(shape);
        } else {
            self.places.insert(name.to_owned(), self.list.len());
            self.list.push((name.to_owned(), shape));
        }
    }

    /// Sets the shape of a member, if there is one.
    pub(super) fn set(&mut self, name: &str, shape: Shape) -> bool {
        let place = self.places.get(name).copied();
        if let Some(place) = place {
            self.list[place].1 = shape;
        }
        place.is_some()
    }

    pub(super) fn merge_all(&mut self, other: Self) {
        for (name, shape) in other.list {
            self.merge(&name, shape);
        }
    }

    pub(super) fn fields(&self) -> ArrowFields {
        self.list.iter().map(|(name, shape)| shape.field(name)).collect()
    }
}

impl Shape {
    /// The narrowest shape that holds both.
    pub(super) fn merge(self, other: Self) -> Self {
        use Shape::{Big, Date, Float, Int, List, Mixed, Null, Struct, Time};
        match (self, other) {
            (a, b) if a == b => a,
            (Null, known) | (known, Null) => known,
            (Int, Big) | (Big, Int) => Big,
            (Float, Int | Big) | (Int | Big, Float) => Float,
            (Date, time @ Time { .. }) | (time @ Time { .. }, Date) => time,
            (Time { .. }, Time { .. }) => Time { zoned: true },
            (List(a), List(b)) => List(Box::new(a.merge(*b))),
            (Struct(mut a), Struct(b)) => {
                a.merge_all(b);
                if a.len() > MEMBERS_MAX { Mixed } else { Struct(a) }
            }
            (List(_) | Struct(_) | Mixed, _) | (_, List(_) | Struct(_) | Mixed) => Mixed,
            _ => Self::Text,
        }
    }

    fn field(&self, name: &str) -> FieldRef {
        let field = match self {
            Self::Bool => Field::new(name, DataType::Boolean, true),
            Self::Int => Field::new(name, DataType::Int64, true),
            Self::Big => Field::new(name, DataType::Decimal128(38, 0), true),
            Self::Float => Field::new(name, DataType::Float64, true),
            Self::Date => Field::new(name, DataType::Date32, true),
            Self::Time { zoned } => {
                let zone = zoned.then(|| "+00:00".into());
                Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, zone), true)
            }
            Self::Null | Self::Text => Field::new(name, DataType::Utf8View, true),
            Self::List(item) => Field::new(name, DataType::List(item.field("item")), true),
            Self::Struct(members) if members.len() > 0 => Field::new(name, DataType::Struct(members.fields()), true),
            Self::Struct(_) | Self::Mixed => {
                let mark = HashMap::from([(MIXED.to_owned(), "json".to_owned())]);
                Field::new(name, DataType::Utf8View, true).with_metadata(mark)
            }
        };
        field.into()
    }

    /// The shape that a user names as the type of a column.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "boolean" | "bool" => Self::Bool,
            "bigint" | "int" | "integer" => Self::Int,
            "decimal" | "numeric" => Self::Big,
            "double" | "float" => Self::Float,
            "date" => Self::Date,
            "timestamp" => Self::Time { zoned: false },
            "timestamptz" => Self::Time { zoned: true },
            "text" | "varchar" | "string" => Self::Text,
            "json" => Self::Mixed,
            _ => return None,
        })
    }

    /// The shape of a field of CSV.
    pub(super) fn of_text(text: &str) -> Self {
        let bytes = text.as_bytes();
        let Some(&first) = bytes.first() else { return Self::Null };
        if matches!(first, b't' | b'T' | b'f' | b'F') {
            let flag = text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
            return if flag { Self::Bool } else { Self::Text };
        }
        if !matches!(first, b'0'..=b'9' | b'-' | b'.') {
            return Self::Text;
        }
        if bytes.len() >= 10 && bytes[4] == b'-' {
            return Self::of_time(text);
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        // A code such as 007 would lose its zeros.
        if digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.") {
            return Self::Text;
        }
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::of_digits(text, digits.len());
        }
        let plain = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+'));
        if plain && text.parse::<f64>().is_ok_and(f64::is_finite) { Self::Float } else { Self::Text }
    }

    /// The shape of an integer, by its text and its number of digits.
    pub(super) fn of_digits(text: &str, digits: usize) -> Self {
        match () {
            () if text.parse::<i64>().is_ok() => Self::Int,
            () if digits <= 38 => Self::Big,
            () => Self::Text,
        }
    }

    fn of_time(text: &str) -> Self {
        use holdfast_core::index::Value;
        if !matches!(Value::canonical(text), Value::Time(_)) || text.trim().len() != text.len() {
            return Self::Text;
        }
        match text.len() {
            10 => Self::Date,
            // A fraction past microseconds would be cut.
            _ if text.split('.').nth(1).is_some_and(|rest| rest.bytes().take_while(u8::is_ascii_digit).count() > 6) => {
                Self::Text
            }
            _ => Self::Time { zoned: text[19..].contains(['Z', 'z', '+', '-']) },
        }
    }
}

/// Whether the text of a column is JSON of any kind.
pub(super) fn is_mixed(field: &Field) -> bool {
    field.metadata().contains_key(MIXED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_the_shape_that_keeps_it_whole() {
        let check = |text: &str, expected: Shape| assert_eq!(Shape::of_text(text), expected, "{text}");
        check("", Shape::Null);
        check("TRUE", Shape::Bool);
        check("trueish", Shape::Text);
        check("0", Shape::Int);
        check("-12", Shape::Int);
        check("007", Shape::Text);
        check("+1", Shape::Text);
        check("9223372036854775808", Shape::Big);
        check("123456789012345678901234567890123456789", Shape::Text);
        check("0.5", Shape::Float);
        check("1e3", Shape::Float);
        check("-", Shape::Text);
        check(".", Shape::Text);
        check("1-2", Shape::Text);
        check("2024-05-06", Shape::Date);
        check("2024-02-30", Shape::Text);
        check("2024-05-06 07:08:09", Shape::Time { zoned: false });
        check("2024-05-06T07:08:09.123456Z", Shape::Time { zoned: true });
        check("2024-05-06T07:08:09.1234567Z", Shape::Text);
        check("naïve", Shape::Text);
        check("2024é-05-06", Shape::Text);
    }

    #[test]
    fn two_shapes_have_a_narrowest_common_one() {
        let check = |a: Shape, b: Shape, expected: Shape| {
            assert_eq!(a.clone().merge(b.clone()), expected);
            assert_eq!(b.merge(a), expected);
        };
        check(Shape::Null, Shape::Int, Shape::Int);
        check(Shape::Int, Shape::Float, Shape::Float);
        check(Shape::Int, Shape::Big, Shape::Big);
        check(Shape::Int, Shape::Text, Shape::Text);
        check(Shape::Bool, Shape::Int, Shape::Text);
        check(Shape::Date, Shape::Time { zoned: false }, Shape::Time { zoned: false });
        check(Shape::List(Box::new(Shape::Int)), Shape::Text, Shape::Mixed);
        check(Shape::List(Box::new(Shape::Int)), Shape::List(Box::new(Shape::Null)), Shape::List(Box::new(Shape::Int)));
    }
}
