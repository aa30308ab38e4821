//! The words of an expression.

use super::error::Error;

/// One word, and the character (from 1) at which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name.
    Word(String),
    /// A name in double quotes: the case of its letters counts.
    Name(String),
    /// Text in single quotes.
    Text(String),
    /// A literal of Ion in backquotes.
    Ion(String),
    /// A number.
    Number(String),
    /// An operator or a mark.
    Symbol(&'static str),
    /// Nothing more.
    End,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(text) | Self::Number(text) => f.write_str(&text.chars().take(64).collect::<String>()),
            Self::Name(text) => write!(f, "{:?}", text.chars().take(64).collect::<String>()),
            Self::Text(text) => write!(f, "'{}'", text.chars().take(64).collect::<String>()),
            Self::Ion(text) => write!(f, "`{}`", text.chars().take(64).collect::<String>()),
            Self::Symbol(symbol) => f.write_str(symbol),
            Self::End => f.write_str("the end of the expression"),
        }
    }
}

/// Longer ones first, so that none is cut by another.
const SYMBOLS: [&str; 19] =
    ["<=", ">=", "<>", "!=", "||", "(", ")", "[", "]", ",", ".", "*", "/", "%", "+", "-", "=", "<", ">"];

/// The words of a text; the last is [`Kind::End`].
///
/// # Errors
/// For characters that begin no word, and quotes that do not end.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Error> {
    let mut lexer = Lexer { text, at: 0, characters: 1 };
    let mut found = Vec::new();
    loop {
        lexer.skip()?;
        let at = lexer.characters;
        let kind = lexer.next()?;
        let end = kind == Kind::End;
        found.push(Token { kind, at });
        if end {
            return Ok(found);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    characters: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.at += bytes;
        self.characters += taken.chars().count();
        taken
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        self.advance(rest.find(|character| !wanted(character)).unwrap_or(rest.len()))
    }

    /// Skips space and comments.
    fn skip(&mut self) -> Result<(), Error> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest().starts_with("--") {
                self.take_while(|character| character != '\n');
            } else if self.rest().starts_with("/*") {
                let end = self.rest().find("*/").ok_or_else(|| self.unexpected("a comment that does not end"))?;
                self.advance(end + 2);
            } else {
                return Ok(());
            }
        }
    }

    fn unexpected(&self, what: &str) -> Error {
        Error::new("LexerInvalidChar", format!("{what} at character {}", self.characters))
    }

    fn next(&mut self) -> Result<Kind, Error> {
        let Some(first) = self.rest().chars().next() else { return Ok(Kind::End) };
        match first {
            '\'' => self.quoted('\'').map(Kind::Text),
            '"' => self.quoted('"').map(Kind::Name),
            '`' => self.quoted('`').map(Kind::Ion),
            '0'..='9' => self.number(),
            '.' if self.rest()[1..].starts_with(|next: char| next.is_ascii_digit()) => self.number(),
            first if first.is_alphabetic() || first == '_' || first == '$' => {
                Ok(Kind::Word(self.take_while(|next| next.is_alphanumeric() || next == '_' || next == '$').to_owned()))
            }
            _ => {
                let symbol = SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol));
                let symbol = symbol.ok_or_else(|| self.unexpected(&format!("the character {first:?}")))?;
                self.advance(symbol.len());
                Ok(Kind::Symbol(symbol))
            }
        }
    }

    /// What stands in quotes; a doubled quote is one.
    fn quoted(&mut self, quote: char) -> Result<String, Error> {
        let unterminated = self.unexpected(&format!("a {quote} that is not closed"));
        self.advance(1);
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|character| character != quote));
            if self.rest().is_empty() {
                return Err(unterminated);
            }
            self.advance(1);
            if !self.rest().starts_with(quote) {
                return Ok(text);
            }
            text.push(quote);
            self.advance(1);
        }
    }

    fn number(&mut self) -> Result<Kind, Error> {
        let start = self.at;
        let digit = |character: char| character.is_ascii_digit();
        self.take_while(digit);
        if self.rest().starts_with('.') {
            self.advance(1);
            self.take_while(digit);
        }
        if self.rest().starts_with(['e', 'E']) {
            self.advance(1);
            if self.rest().starts_with(['+', '-']) {
                self.advance(1);
            }
            if self.take_while(digit).is_empty() {
                return Err(Error::new(
                    "LexerInvalidLiteral",
                    format!("an exponent without digits at character {}", self.characters),
                ));
            }
        }
        if self.rest().starts_with(|next: char| next.is_alphanumeric() || next == '_') {
            return Err(Error::new(
                "LexerInvalidLiteral",
                format!("a letter after a number at character {}", self.characters),
            ));
        }
        Ok(Kind::Number(self.text[start..self.at].to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        let kinds: Vec<String> = tokens("SELECT s.\"a\"\"b\",'it''s' -- c\n>=.5e1 /* x */ `2010T`")
            .unwrap()
            .into_iter()
            .map(|token| format!("{:?}", token.kind))
            .collect();
        assert_eq!(
            kinds.join(" "),
            r#"Word("SELECT") Word("s") Symbol(".") Name("a\"b") Symbol(",") Text("it's") Symbol(">=") Number(".5e1") Ion("2010T") End"#
        );
    }

    #[test]
    fn what_begins_no_word_is_refused() {
        for (text, code) in [
            ("a ; b", "LexerInvalidChar"),
            ("'open", "LexerInvalidChar"),
            ("1e", "LexerInvalidLiteral"),
            ("1a", "LexerInvalidLiteral"),
            ("/* x", "LexerInvalidChar"),
        ] {
            assert_eq!(tokens(text).unwrap_err().code, code, "{text}");
        }
    }
}
