//! `LIKE`: patterns with `%`, `_` and an escape character.

use memchr::memmem;

use super::error::Error;

/// Characters of a pattern with `_` between others: there each place of the text is tried.
const ONE_BY_ONE_MAX: usize = 1024;

/// A pattern that was read: what stands between its `%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    segments: Vec<Segment>,
}

/// Characters, of which `None` is any one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    characters: Vec<Option<char>>,
    /// The same as text, when all are given.
    text: Option<String>,
}

impl Segment {
    fn of(characters: Vec<Option<char>>) -> Result<Self, Error> {
        let text: Option<String> = characters.iter().copied().collect();
        if text.is_none() && characters.len() > ONE_BY_ONE_MAX {
            return Err(Error::new("LikeInvalidInputs", "a pattern with _ has at most 1024 characters between two %"));
        }
        Ok(Self { characters, text })
    }

    /// Where it ends, if the text begins with it.
    fn begins(&self, text: &str) -> Option<usize> {
        if let Some(own) = &self.text {
            return text.starts_with(own.as_str()).then_some(own.len());
        }
        let mut rest = text.chars();
        for wanted in &self.characters {
            let next = rest.next()?;
            if wanted.is_some_and(|wanted| wanted != next) {
                return None;
            }
        }
        Some(text.len() - rest.as_str().len())
    }

    /// Where it ends the first time.
    fn find(&self, text: &str) -> Option<usize> {
        if let Some(own) = &self.text {
            return memmem::find(text.as_bytes(), own.as_bytes()).map(|at| at + own.len());
        }
        text.char_indices().find_map(|(at, _)| self.begins(&text[at..]).map(|end| at + end))
    }

    /// Where it begins, if the text ends with it.
    fn ends(&self, text: &str) -> Option<usize> {
        if let Some(own) = &self.text {
            return text.ends_with(own.as_str()).then(|| text.len() - own.len());
        }
        let (at, _) = text.char_indices().rev().nth(self.characters.len().checked_sub(1)?)?;
        self.begins(&text[at..]).map(|_| at)
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When the escape character is followed by nothing that needs it.
    pub(super) fn parse(pattern: &str, escape: Option<&str>) -> Result<Self, Error> {
        let escape = match escape.map(|escape| (escape.chars().next(), escape.chars().count())) {
            None => None,
            Some((Some(escape), 1)) => Some(escape),
            Some(_) => return Err(Error::new("LikeInvalidInputs", "the escape of LIKE is one character")),
        };
        let (mut segments, mut segment, mut characters) = (Vec::new(), Vec::new(), pattern.chars());
        while let Some(character) = characters.next() {
            match character {
                character if Some(character) == escape => match characters.next() {
                    Some(next) if next == '%' || next == '_' || Some(next) == escape => segment.push(Some(next)),
                    _ => {
                        return Err(Error::new("LikeInvalidInputs", "the escape of LIKE stands before %, _ or itself"));
                    }
                },
                '%' => segments.push(Segment::of(std::mem::take(&mut segment))?),
                '_' => segment.push(None),
                literal => segment.push(Some(literal)),
            }
        }
        segments.push(Segment::of(segment)?);
        Ok(Self { segments })
    }

    /// Whether a text is like it: the first segment at its start, the last at its end, those between one after the other,
    /// each as early as it can be.
    pub(super) fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &self.segments[..] else {
            return self.segments.first().is_some_and(|only| only.begins(text) == Some(text.len()));
        };
        let Some(start) = first.begins(text) else { return false };
        let mut rest = &text[start..];
        for segment in between {
            let Some(end) = segment.find(rest) else { return false };
            rest = &rest[end..];
        }
        last.characters.is_empty() || last.ends(rest).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        let check = |pattern: &str, text: &str, expected: bool| {
            let pattern = Pattern::parse(pattern, Some("\\")).unwrap();
            assert_eq!(pattern.matches(text), expected, "{pattern:?} {text}");
        };
        check("abc", "abc", true);
        check("abc", "abcd", false);
        check("a%", "abcd", true);
        check("%d", "abcd", true);
        check("%b%c%", "abcd", true);
        check("a_c", "aüc", true);
        check("a_c", "ac", false);
        check("%", "", true);
        check("", "", true);
        check("", "a", false);
        check("%%x", "aax", true);
        check("100\\%", "100%", true);
        check("100\\%", "1000", false);
        check("%ab%ab", "abxabab", true);
        check("ab%ab", "ab", false);
        check("%a_", "xaü", true);
        check("%_ü%b", "aüb", true);
        check("%_", "", false);
    }

    #[test]
    fn many_wildcards_end_soon() {
        let pattern = Pattern::parse(&"%a".repeat(40), None).unwrap();
        assert!(!pattern.matches(&("a".repeat(39) + &"b".repeat(20_000))));
    }

    #[test]
    fn an_escape_must_escape() {
        assert_eq!(Pattern::parse("a\\b", Some("\\")).unwrap_err().code, "LikeInvalidInputs");
        assert_eq!(Pattern::parse("a\\", Some("\\")).unwrap_err().code, "LikeInvalidInputs");
        assert_eq!(Pattern::parse("a", Some("ab")).unwrap_err().code, "LikeInvalidInputs");
    }
}
