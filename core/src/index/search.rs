//! From what a query asks of the values to intervals of encodings.

use std::ops::Bound;

use super::value::{Class, Value, text_bytes};

/// Intervals of one search; a predicate that needs more is answered by a scan.
pub const INTERVALS_MAX: usize = 1000;

/// What a query asks of one expression. Several values of an expression in one constraint are alternatives.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint<'a> {
    /// Equal to one of these canonical values.
    Equal(Vec<Value<'a>>),
    /// Between two values of a class. Values of the other classes may compare either way, so they are searched too: there
    /// are none where the column has one type. Bounds count as inclusive, because encodings round.
    Between(Class, Bound<Value<'a>>, Bound<Value<'a>>),
    /// Text that begins with this. Values of the other classes may, too.
    Prefix(&'a str),
}

/// A range of encodings of tuples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// First, inclusive.
    pub from: Vec<u8>,
    /// End, exclusive.
    pub to: Vec<u8>,
}

impl Interval {
    /// All encodings that begin with `start`.
    fn under(start: Vec<u8>) -> Self {
        Self { to: after(&start), from: start }
    }

    /// The encoding of the tuple that it consists of, when it is exactly one.
    #[must_use]
    pub fn point(&self) -> Option<&[u8]> {
        (after(&self.from) == self.to).then_some(&self.from)
    }
}

/// The first bytes after everything that begins with `start`, which has a byte below `FF`: classes are.
fn after(start: &[u8]) -> Vec<u8> {
    let mut end = start.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The intervals that hold every tuple which meets `constraints`, one for each leading expression of an index; what the
/// constraints leave open is open. Sorted, without overlap. `None` when there are too many, or no constraint.
#[must_use]
pub fn intervals(constraints: &[Constraint<'_>]) -> Option<Vec<Interval>> {
    if constraints.is_empty() {
        return None;
    }
    let mut starts: Vec<Vec<u8>> = vec![Vec::new()];
    for (at, constraint) in constraints.iter().enumerate() {
        let last = at + 1 == constraints.len();
        match constraint {
            Constraint::Equal(values) if !last && !values.iter().any(Value::is_rounded) => {
                starts = extended(&starts, values)?;
            }
            // What follows an expression that is not fixed cannot be used.
            constraint => return finish(&starts, constraint),
        }
    }
    None
}

fn extended(starts: &[Vec<u8>], values: &[Value<'_>]) -> Option<Vec<Vec<u8>>> {
    if starts.len().saturating_mul(values.len()) > INTERVALS_MAX {
        return None;
    }
    let joined = starts.iter().flat_map(|start| {
        values.iter().map(move |value| {
            let mut tuple = start.clone();
            if value.is_rounded() {
                value.encode_rounded(&mut tuple)
            } else {
                value.encode(&mut tuple)
            };
            tuple
        })
    });
    Some(joined.collect())
}

fn finish(starts: &[Vec<u8>], constraint: &Constraint<'_>) -> Option<Vec<Interval>> {
    let mut found: Vec<Interval> = match constraint {
        Constraint::Equal(values) => extended(starts, values)?.into_iter().map(Interval::under).collect(),
        Constraint::Between(class, low, high) => {
            starts.iter().flat_map(|start| between(start, *class, low, high)).collect()
        }
        Constraint::Prefix(text) => starts.iter().flat_map(|start| prefix(start, text)).collect(),
    };
    found.sort_by(|a, b| a.from.cmp(&b.from));
    found.dedup();
    (found.len() <= INTERVALS_MAX).then_some(found)
}

fn others(start: &[u8], class: Class) -> impl Iterator<Item = Interval> + '_ {
    Class::VALUES
        .into_iter()
        .filter(move |other| *other != class)
        .map(move |other| Interval::under(joined(start, other)))
}

fn joined(start: &[u8], class: Class) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.push(class as u8);
    bytes
}

fn between(start: &[u8], class: Class, low: &Bound<Value<'_>>, high: &Bound<Value<'_>>) -> Vec<Interval> {
    let whole = Interval::under(joined(start, class));
    let encoded = |value: &Value<'_>| {
        let mut bytes = start.to_vec();
        value.encode_rounded(&mut bytes);
        bytes
    };
    let from = match low {
        Bound::Included(value) | Bound::Excluded(value) => encoded(value),
        Bound::Unbounded => whole.from,
    };
    let to = match high {
        Bound::Included(value) | Bound::Excluded(value) => after(&encoded(value)),
        Bound::Unbounded => whole.to,
    };
    let own = (from < to).then_some(Interval { from, to });
    own.into_iter().chain(others(start, class)).collect()
}

fn prefix(start: &[u8], text: &str) -> Vec<Interval> {
    let mut bytes = joined(start, Class::Text);
    text_bytes(text, &mut bytes);
    std::iter::once(Interval::under(bytes)).chain(others(start, Class::Text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(constraints: &[Constraint<'_>], tuple: &[Value<'_>]) -> bool {
        let mut bytes = Vec::new();
        tuple.iter().for_each(|value| value.encode(&mut bytes));
        let found = intervals(constraints).expect("few intervals");
        assert!(found.windows(2).all(|pair| pair[0].to <= pair[1].from), "they are sorted and apart");
        found.iter().any(|interval| interval.from <= bytes && bytes < interval.to)
    }

    #[test]
    fn equality_of_a_tuple_is_a_point() {
        let wanted = [Constraint::Equal(vec![Value::Text("a")]), Constraint::Equal(vec![Value::Number(1.0)])];
        assert!(holds(&wanted, &[Value::Text("a"), Value::Number(1.0)]));
        assert!(!holds(&wanted, &[Value::Text("a"), Value::Number(2.0)]));
        assert!(!holds(&wanted, &[Value::Text("ab"), Value::Number(1.0)]));
        assert!(intervals(&wanted).unwrap()[0].point().is_some());
        assert!(holds(&wanted[..1], &[Value::Text("a"), Value::Number(7.0)]), "the rest is open");
    }

    #[test]
    fn a_range_holds_its_class_between_the_bounds_and_all_of_the_others() {
        let low = Bound::Included(Value::Number(10.0));
        let wanted = [Constraint::Between(Class::Number, low, Bound::Excluded(Value::Number(20.0)))];
        for (value, expected) in [
            (Value::Number(9.9), false),
            (Value::Number(10.0), true),
            (Value::Number(20.0), true),
            (Value::Number(20.1), false),
            (Value::Text("a"), true),
            (Value::Bool(true), true),
            (Value::Null, false),
        ] {
            assert_eq!(holds(&wanted, &[value]), expected, "{value:?}");
        }
        let open = [Constraint::Between(Class::Time, Bound::Unbounded, Bound::Unbounded)];
        assert!(holds(&open, &[Value::Time(i64::MAX)]));
        let empty = Constraint::Between(
            Class::Number,
            Bound::Included(Value::Number(2.0)),
            Bound::Included(Value::Number(1.0)),
        );
        assert!(!holds(&[empty], &[Value::Number(1.5)]));
    }

    #[test]
    fn a_prefix_holds_longer_texts() {
        let wanted = [Constraint::Equal(vec![Value::Number(1.0)]), Constraint::Prefix("ab")];
        assert!(holds(&wanted, &[Value::Number(1.0), Value::Text("ab")]));
        assert!(holds(&wanted, &[Value::Number(1.0), Value::Text("abc")]));
        assert!(holds(&wanted, &[Value::Number(1.0), Value::Number(5.0)]), "a number may print so");
        assert!(!holds(&wanted, &[Value::Number(1.0), Value::Text("ac")]));
        assert!(!holds(&wanted, &[Value::Number(2.0), Value::Text("ab")]));
    }

    #[test]
    fn too_many_alternatives_are_left_to_a_scan() {
        let many: Vec<Value<'_>> = (0..1001).map(|n| Value::Number(f64::from(n))).collect();
        assert_eq!(intervals(&[Constraint::Equal(many)]), None);
        assert_eq!(intervals(&[]), None);
    }
}
