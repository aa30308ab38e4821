//! Paths into content: `$.customer.id`, `$.items[0].sku`, `$['odd name']`, or the bare name of a column.

use minicbor::{Decode, Encode};

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Step {
    /// A member of an object, or a column.
    #[n(0)]
    Name(#[n(0)] String),
    /// An element of an array; the first is 0.
    #[n(1)]
    Element(#[n(0)] u32),
}

/// Text that is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a path: {why}")]
pub struct PathError {
    /// The text.
    pub path: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Steps of one path.
const STEPS_MAX: usize = 32;

/// The steps of a path. A text that does not begin with `$` is the name of one column.
///
/// # Errors
/// [`PathError`] for anything but member names and element numbers: wildcards, slices and filters are not built.
pub fn parse_path(text: &str) -> Result<Vec<Step>, PathError> {
    let wrong = |why| PathError { path: text.to_owned(), why };
    let Some(mut rest) = text.strip_prefix('$') else {
        return if text.is_empty() { Err(wrong("it is empty")) } else { Ok(vec![Step::Name(text.to_owned())]) };
    };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) = step(rest).map_err(wrong)?;
        steps.push(step);
        rest = after;
    }
    match steps.len() {
        0 => Err(wrong("it names nothing")),
        1..=STEPS_MAX => Ok(steps),
        _ => Err(wrong("it has more than 32 steps")),
    }
}

fn step(text: &str) -> Result<(Step, &str), &'static str> {
    if let Some(text) = text.strip_prefix('.') {
        let end = text.find(['.', '[']).unwrap_or(text.len());
        let name = &text[..end];
        if name.is_empty() || name == "*" {
            return Err("a member has a name");
        }
        return Ok((Step::Name(name.to_owned()), &text[end..]));
    }
    let Some(text) = text.strip_prefix('[') else { return Err("a step begins with a dot or a bracket") };
    for quote in ['\'', '"'] {
        if let Some(text) = text.strip_prefix(quote) {
            let end = text.find(quote).ok_or("a quote is not closed")?;
            let after = text[end + 1..].strip_prefix(']').ok_or("a bracket is not closed")?;
            return Ok((Step::Name(text[..end].to_owned()), after));
        }
    }
    let end = text.find(']').ok_or("a bracket is not closed")?;
    let number = text[..end].parse().map_err(|_| "an element has a number")?;
    Ok((Step::Element(number), &text[end + 1..]))
}

/// The text of a path: that of a column as it is, else in the form that begins with `$`.
#[must_use]
pub fn show_path(path: &[Step]) -> String {
    use std::fmt::Write as _;
    if let [Step::Name(name)] = path
        && !name.starts_with('$')
    {
        return name.clone();
    }
    let mut text = String::from("$");
    for step in path {
        // Writing to a string cannot fail.
        let _ = match step {
            Step::Name(name) if name.contains(['.', '[', '\'', '*']) || name.is_empty() => write!(text, "[\"{name}\"]"),
            Step::Name(name) => write!(text, ".{name}"),
            Step::Element(number) => write!(text, "[{number}]"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_and_shown() {
        let name = |name: &str| Step::Name(name.to_owned());
        let check = |text: &str, steps: &[Step], shown: &str| {
            assert_eq!(parse_path(text).unwrap(), steps, "{text}");
            assert_eq!(show_path(steps), shown);
            assert_eq!(parse_path(shown).unwrap(), steps);
        };
        check("amount", &[name("amount")], "amount");
        check("odd name.x", &[name("odd name.x")], "odd name.x");
        check("$.customer.id", &[name("customer"), name("id")], "$.customer.id");
        check("$.items[3]['a.b']", &[name("items"), Step::Element(3), name("a.b")], "$.items[3][\"a.b\"]");
        check("$['$']", &[name("$")], "$.$");
    }

    #[test]
    fn what_is_not_built_is_refused() {
        for text in ["", "$", "$.", "$..a", "$.*", "$[*]", "$[-1]", "$['a", "$['a'", "$[1", "$a", "$.a[1:2]"] {
            assert!(parse_path(text).is_err(), "{text}");
        }
        let deep = format!("${}", ".a".repeat(33));
        assert!(parse_path(&deep).is_err());
    }
}
